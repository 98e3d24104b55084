package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/sessapi/sessapi/internal/files"
)

// file is a configuration file: settings by the name of their flag. It fills
// in what neither the command line nor the environment gave.
type file map[string]string

// maxFile is the size of the largest configuration file, in bytes: many times what
// all settings take.
const maxFile = 64 << 10

// loadYAML reads a configuration file for kong.
func loadYAML(r io.Reader) (kong.Resolver, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("configuration file: larger than %d bytes", maxFile)
	}
	if err := files.CheckText(content); err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var settings map[string]ast.Node
	if err := decoder.Decode(&settings); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration file: not a YAML mapping: %s", firstLine(err))
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("configuration file: a second document in it")
	}
	f := make(file, len(settings))
	for key, value := range settings {
		name := strings.ReplaceAll(key, "_", "-")
		if _, twice := f[name]; twice {
			return nil, fmt.Errorf("configuration file: %q is given twice", name)
		}
		scalar, ok := value.(ast.ScalarNode)
		if !ok || value.Type() == ast.NullType {
			return nil, fmt.Errorf("configuration file: %q must be a single value", name)
		}
		f[name] = scalar.GetToken().Value
	}
	return f, nil
}

// firstLine leaves out the excerpt of the file that the library's errors carry.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// Validate implements [kong.Resolver]: every key of the file must be a setting,
// which the flags beside --config are.
func (f file) Validate(app *kong.Application) error {
	known := map[string]bool{}
	add := func(node *kong.Node) {
		if !slices.ContainsFunc(node.Flags, func(flag *kong.Flag) bool { return flag.Name == "config" }) {
			return
		}
		for _, flag := range node.Flags {
			known[flag.Name] = true
		}
	}
	err := kong.Visit(app, func(node kong.Visitable, next kong.Next) error {
		switch node := node.(type) {
		case *kong.Application:
			add(node.Node)
		case *kong.Node:
			add(node)
		}
		return next(nil)
	})
	if err != nil {
		return err
	}
	for name := range f {
		if !known[name] || name == "help" || name == "config" {
			return fmt.Errorf("configuration file: unknown setting %q", name)
		}
	}
	return nil
}

// Resolve implements [kong.Resolver].
func (f file) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	if value, ok := f[flag.Name]; ok {
		return value, nil
	}
	return nil, nil
}

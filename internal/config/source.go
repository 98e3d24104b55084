package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/sessapi/sessapi/internal/yamlfile"
)

// source is the configuration file and the environment. It supplies settings of the
// file that neither the command line nor the environment has. It collects the problems
// of both, so that they are reported together.
type source struct {
	path     string             // of the file
	settings map[string]setting // of the file, by flag name
	used     map[string]int     // lines of the settings that no flag or variable overrode
	problems Problems
}

// setting is a value in the file.
type setting struct {
	value string
	line  int
}

// maxFile is the maximum size of a configuration file in bytes, many times what all
// settings need.
const maxFile = 64 << 10

// load reads a configuration file for kong.
func (s *source) load(r io.Reader) (kong.Resolver, error) {
	*s = source{path: "configuration file", settings: map[string]setting{}, used: map[string]int{}}
	if file, ok := r.(*os.File); ok {
		s.path = file.Name()
	}
	content, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	file, err := yamlfile.Parse(content, maxFile, // values are text as written, whatever their YAML type
		token.BoolType, token.FloatType, token.OctetIntegerType, token.HexIntegerType, token.BinaryIntegerType)
	if file == nil {
		return nil, s.invalid(err)
	}
	if err != nil {
		_ = s.invalid(err)
	}
	var values map[string]ast.Node
	if _, err := file.Decode(&values); err != nil {
		return nil, s.invalid(err)
	}
	for key, value := range values {
		if value == nil { // reported as missing
			continue
		}
		line := value.GetToken().Position.Line
		name := strings.ReplaceAll(key, "_", "-")
		scalar, single := value.(ast.ScalarNode)
		first, twice := s.settings[name]
		switch {
		case !single:
			s.wrong(line, "%s: must be a single value", key)
		case twice:
			s.wrong(max(line, first.line), "%q is given twice, first in line %d", name, min(line, first.line))
		default:
			s.settings[name] = setting{scalar.GetToken().Value, line}
		}
	}
	return s, nil
}

// wrong records a problem of a line in the file; 0 means the whole file.
func (s *source) wrong(line int, format string, args ...any) {
	s.problems = append(s.problems, Problem{yamlfile.Place(s.path, line), fmt.Sprintf(format, args...), line})
}

// invalid records YAML errors of the file, and returns all problems.
func (s *source) invalid(err error) error {
	for _, e := range yamlfile.All(err) {
		s.wrong(e.Line, "%s", e.Text)
	}
	return s.problems
}

// Validate implements [kong.Resolver]. [Config.Problems] returns the problems.
func (s *source) Validate(*kong.Application) error { return nil }

// Resolve implements [kong.Resolver]. It records and omits an invalid value.
func (s *source) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	set, ok := s.settings[flag.Name]
	if !ok || slices.ContainsFunc(flag.Envs, isSet) {
		return nil, nil
	}
	if err := decode(flag, set.value); err != nil {
		s.wrong(set.line, "%s: %v", flag.Name, err)
		return nil, nil
	}
	s.used[flag.Name] = set.line
	return set.value, nil
}

func isSet(variable string) bool {
	_, set := os.LookupEnv(variable)
	return set
}

// decode returns why the value is invalid for the flag.
func decode(flag *kong.Flag, value string) error {
	if flag.Enum != "" && !flag.EnumMap()[value] {
		return errors.New("must be one of " + strings.Join(flag.EnumSlice(), ", "))
	}
	target := reflect.New(flag.Target.Type()).Elem()
	if target.Kind() == reflect.Pointer {
		target.Set(reflect.New(target.Type().Elem()))
	}
	scan := kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value})
	return flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, target)
}

// check records unknown keys in the file and unknown variables in the environment.
// Known keys are the flags of the commands that have --config.
func (s *source) check(app *kong.Application) error {
	var keys, variables []string
	err := kong.Visit(app, func(visited kong.Visitable, next kong.Next) error {
		var node *kong.Node
		switch visited := visited.(type) {
		case *kong.Application:
			node = visited.Node
		case *kong.Node:
			node = visited
		default:
			return next(nil)
		}
		isConfig := func(flag *kong.Flag) bool { return flag.Name == "config" }
		configured := slices.ContainsFunc(node.Flags, isConfig)
		for _, flag := range node.Flags {
			variables = append(variables, flag.Envs...)
			if configured && flag.Name != "help" && flag.Name != "config" {
				keys = append(keys, flag.Name)
			}
		}
		return next(nil)
	})
	if err != nil {
		return err
	}
	for name, set := range s.settings {
		if !slices.Contains(keys, name) {
			s.wrong(set.line, "unknown setting %q%s", name, yamlfile.Suggest(name, keys))
		}
	}
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, EnvPrefix+"_") && !slices.Contains(variables, name) && !ofKubernetes.MatchString(name) {
			s.problems = append(s.problems, Problem{Text: fmt.Sprintf("unknown variable %s in the environment%s", name, yamlfile.Suggest(name, variables))})
		}
	}
	slices.SortStableFunc(s.problems, func(a, b Problem) int { return cmp.Compare(a.line, b.line) })
	return nil
}

// ofKubernetes matches the variables that Kubernetes sets in each container for a
// service named sessapi or sessapi-something.
var ofKubernetes = regexp.MustCompile(`^` + EnvPrefix + `_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/seal"
)

type sealKeyCommand struct {
	New newSealKeyCommand `cmd:"" help:"Make a key: a line for --seal-key-file."`
}

type newSealKeyCommand struct {
	Out string `env:"-" placeholder:"FILE" help:"File to create, with mode 0600. An existing file is not changed. The default is standard output."`
}

// Run writes a key.
func (c newSealKeyCommand) Run(env environment) error {
	line := seal.GenerateKey()
	defer clear(line)
	if c.Out == "" {
		_, err := env.stdout.Write(line)
		return err
	}
	err := files.Make(c.Out, line)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", c.Out, fs.ErrExist)
	}
	return err
}

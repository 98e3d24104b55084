package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/keys"
)

type generateCommand struct {
	Format format `required:"" env:"-" placeholder:"FORMAT" help:"Format to write: ${formats}."`
	Bits   int    `default:"256" enum:"128,256" env:"-" help:"Size of the secrets: ${enum}."`
	Count  *int   `env:"-" help:"Number of keys. The first encrypts. The last of two or more is the next one to encrypt. The default is as few as the format allows."`
}

// Validate implements kong's check of the flags.
func (c generateCommand) Validate() error {
	switch {
	case c.Count == nil:
	case *c.Count < 1 || *c.Count > keys.MaxKeys:
		return fmt.Errorf("--count must be from 1 to %d", keys.MaxKeys)
	case *c.Count > 1 && c.Format.OneKey():
		return fmt.Errorf("%s reads one key a file: --count must be 1", c.Format)
	}
	return nil
}

// Run writes keys to standard output.
func (c generateCommand) Run(env environment) error {
	count := c.Format.MinKeys()
	if c.Count != nil {
		count = *c.Count
	}
	set := keys.Generate(c.Bits, count)
	defer set.Wipe()
	return writeKeys(env, c.Format.Format, set, nil)
}

type inspectCommand struct {
	File   string          `arg:"" placeholder:"FILE" help:"File to read; - is standard input."`
	Format *readableFormat `env:"-" placeholder:"FORMAT" help:"Format of the file: ${readable_formats}. Without --format, the command lists the formats that the file may have."`
}

// Run writes a table of the keys. The error lists their problems.
func (c inspectCommand) Run(env environment) error {
	if c.Format == nil {
		return c.listFormats(env)
	}
	set, err := readKeys(env, c.File, c.Format.Format)
	if err != nil {
		return err
	}
	defer set.Wipe()
	var described []client.TicketKey
	add := func(role keys.Role, k keys.Key) {
		described = append(described, client.TicketKey{
			Name: k.Name().String(), Role: client.TicketKeyRole(role), Bits: client.TicketKeyBits(k.Bits()), Fingerprint: k.Fingerprint(),
		})
	}
	add(keys.RoleCurrent, set.Keys[0])
	if set.Next != nil {
		add(keys.RoleNext, *set.Next)
	}
	for _, k := range set.Keys[1:] {
		add(keys.RolePrevious, k)
	}
	if err := keyTable(env.stdout, described); err != nil {
		return err
	}
	return set.Validate()
}

// listFormats writes a table of the formats in which the file has good keys. The file
// does not show its format: layouts of the same size differ only in order.
func (c inspectCommand) listFormats(env environment) error {
	data, err := readInput(env, c.File, maxKeyFile)
	if err != nil {
		return err
	}
	defer clear(data)
	table := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FORMAT\tKEYS\tBITS\tENCRYPTS")
	found := false
	var refused []string                 // reasons, in order
	formats := make(map[string][]string) // the formats for each reason
	for _, f := range keys.Formats() {
		if !f.Readable() {
			continue
		}
		set, err := f.Parse(data)
		if err == nil {
			err = set.Validate()
		}
		n := len(set.Keys)
		if set.Next != nil {
			n++
		}
		switch {
		case err != nil:
			reason := strings.TrimPrefix(err.Error(), "invalid ticket keys: ")
			if formats[reason] == nil {
				refused = append(refused, reason)
			}
			formats[reason] = append(formats[reason], f.String())
		case n == 1 || !f.OneKey():
			found = true
			fmt.Fprintf(table, "%s\t%d\t%d\t%s\n", f, n, set.Keys[0].Bits(), set.Keys[0].Name())
		}
		set.Wipe()
	}
	if found {
		return table.Flush()
	}
	for i, reason := range refused {
		refused[i] = strings.Join(formats[reason], ", ") + ": " + reason
	}
	return fmt.Errorf("%s does not hold valid keys in any format; %s", c.File, strings.Join(refused, "; "))
}

type convertCommand struct {
	File string         `arg:"" optional:"" default:"-" placeholder:"FILE" help:"File to read; - is standard input."`
	From readableFormat `required:"" env:"-" placeholder:"FORMAT" help:"Format of the file: ${readable_formats}."`
	To   format         `required:"" env:"-" placeholder:"FORMAT" help:"Format to write: ${formats}."`
	Key  *int           `env:"-" placeholder:"I" help:"Number of the key, for a format with one key in a file. The default is 0, the key that encrypts."`
}

// Validate implements kong's check of the flags.
func (c convertCommand) Validate() error { return checkKeyFlag(c.To.Format, c.Key) }

// Run writes the keys of the file to standard output.
func (c convertCommand) Run(env environment) error {
	set, err := readKeys(env, c.File, c.From.Format)
	if err != nil {
		return err
	}
	defer set.Wipe()
	if err := set.Validate(); err != nil {
		return err
	}
	return writeKeys(env, c.To.Format, set, c.Key)
}

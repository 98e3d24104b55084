package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/sessapi/sessapi/client"
	"github.com/sessapi/sessapi/internal/keys"
)

// keysCommand handles ticket keys in local files and at a service.
type keysCommand struct {
	Generate generateCommand `cmd:"" help:"Generate random keys."`
	Inspect  inspectCommand  `cmd:"" help:"Show the keys of a file, without secrets. Exit with 1 if they are weak or invalid."`
	Convert  convertCommand  `cmd:"" help:"Convert the keys of a file to another format."`
	List     listCommand     `cmd:"" help:"Show the keys of the service, and which consumers hold them."`
	Push     pushCommand     `cmd:"" help:"Replace the keys of the service."`
	Pull     pullCommand     `cmd:"" help:"Fetch the keys of the service."`
	Rotate   rotateCommand   `cmd:"" help:"Rotate the keys of the service by one step."`
	Revoke   revokeCommand   `cmd:"" help:"Remove a leaked key from the service."`
	Watch    watchCommand    `cmd:"" help:"Keep a file in step with the keys of the service, until stopped."`
}

// maxKeyFile is more than 64 keys need in any format, in bytes.
const maxKeyFile = 64 << 10

// format is a flag that names a format.
type format struct{ keys.Format }

// UnmarshalText reads the name of a format.
func (f *format) UnmarshalText(text []byte) (err error) {
	if f.Format, err = keys.ParseFormat(string(text)); err != nil {
		return errors.New("must be one of " + formatNames(func(keys.Format) bool { return true }))
	}
	return nil
}

// readableFormat is a flag that names a format to read keys from.
type readableFormat struct{ keys.Format }

// UnmarshalText reads the name of a format that can be read.
func (f *readableFormat) UnmarshalText(text []byte) (err error) {
	if f.Format, err = keys.ParseFormat(string(text)); err != nil || !f.Readable() {
		return errors.New("must be one of " + formatNames(keys.Format.Readable))
	}
	return nil
}

func formatNames(which func(keys.Format) bool) string {
	var names []string
	for _, f := range keys.Formats() {
		if which(f) {
			names = append(names, f.String())
		}
	}
	return strings.Join(names, ", ")
}

// checkKeyFlag returns an error if --key does not fit the format.
func checkKeyFlag(f keys.Format, key *int) error {
	switch {
	case key != nil && !f.OneKey():
		return fmt.Errorf("%s reads all keys from one file: leave out --key", f)
	case key != nil && (*key < 0 || *key >= keys.MaxKeys):
		return fmt.Errorf("--key must be 0 to %d", keys.MaxKeys-1)
	}
	return nil
}

// readInput returns up to limit bytes of a file, or of standard input for "-". The
// caller must wipe them.
func readInput(env environment, path string, limit int) ([]byte, error) {
	var in io.Reader = input{env}
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	buf := make([]byte, limit+1)
	n, err := io.ReadFull(in, buf)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return buf[:n], nil
	case err == nil:
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	clear(buf)
	return nil, err
}

// readKeys reads a set from a file, or from standard input for "-". The caller must
// wipe it. Its keys may be weak.
func readKeys(env environment, path string, f keys.Format) (keys.Set, error) {
	data, err := readInput(env, path, maxKeyFile)
	if err != nil {
		return keys.Set{}, err
	}
	defer clear(data)
	set, err := f.Parse(data)
	if err != nil {
		return keys.Set{}, fmt.Errorf("%s as %s: %w", path, f, err)
	}
	return set, nil
}

// writeKeys writes a set to standard output. For a server that reads one key per file,
// it writes one key: key, or else the first.
func writeKeys(env environment, f keys.Format, set keys.Set, key *int) (err error) {
	var data []byte
	if !f.OneKey() {
		data = f.Append(nil, set)
	} else {
		i := 0
		if key != nil {
			i = *key
		}
		if data, err = f.AppendKey(nil, set, i); err != nil {
			err = fmt.Errorf("--key=%d: %w", i, err)
		}
	}
	defer func() { clear(data) }()
	if err != nil {
		return err
	}
	return writeSecret(env, f, data)
}

// writeSecret writes keys to standard output. It refuses to write binary keys to a
// terminal.
func writeSecret(env environment, f keys.Format, data []byte) error {
	if !f.Text() && isTerminal(env.stdout) {
		return fmt.Errorf("keys for %s are binary and standard output is a terminal: write them to a file (> FILE)", f)
	}
	_, err := env.stdout.Write(data)
	return err
}

// keyTable writes a line for each key.
func keyTable(w io.Writer, described []client.TicketKey) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tROLE\tBITS\tFINGERPRINT")
	for _, k := range described {
		role := string(k.Role)
		if role == string(keys.RoleCurrent) {
			role += ", encrypts"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", k.Name, role, k.Bits, k.Fingerprint)
	}
	return table.Flush()
}

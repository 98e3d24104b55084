package yamlfile

import (
	"strings"
	"testing"
)

// server is a file with a mapping, a list and plain values.
type server struct {
	Name    string   `yaml:"name"`
	Roles   []string `yaml:"roles"`
	Targets []struct {
		Kind string `yaml:"kind"`
	} `yaml:"targets"`
}

// What is wrong is said by its line and key, in one line, and never shows a value.
func TestErrors(t *testing.T) {
	for _, test := range []struct{ name, file, want string }{
		{"tab", "name: a\nroles:\n\t- x", "line 3: is indented with a tab; use spaces"},
		{"tab behind spaces", "targets:\n  - kind: a\n  \tname: b", "line 3: is indented with a tab; use spaces"},
		{"no value", "name:", "line 1: name: has no value"},
		{"no values", "name:\ntargets:\n  - kind: ~\n", "line 1: name: has no value; line 3: kind: has no value"},
		{"entry without a value", "roles:\n  - a\n  -\n", "line 3: has an entry without a value"},
		{"unknown key", "name: a\nnam: secret", `line 2: unknown key "nam"; did you mean name?`},
		{"unknown keys", "nam: secret\nname: a\ntargets:\n  - {kin: secret}\nrole: x", `line 1: unknown key "nam"; did you mean name?; line 4: unknown key "kin"; did you mean kind?; line 5: unknown key "role"; did you mean roles?`},
		{"key twice", "name: a\nroles: [x]\nname: b", `line 3: "name" is given twice, first in line 1`},
		{"text for a list", "name: a\nroles: secret", "line 2: roles: must be a list"},
		{"number for a list", "roles: 1", "line 1: roles: must be a list"},
		{"mapping for a list", "targets:\n  kind: a", "line 2: must be a list"},
		{"list for text", "name: [secret]", "line 1: name: must be a single value"},
		{"text for a mapping", "targets: [secret]", "line 1: must be a mapping, in lines of KEY: VALUE"},
		{"text for a file", "secret", "line 1: must be a mapping, in lines of KEY: VALUE"},
		{"list for a file", "- secret", "line 1: must be a mapping, in lines of KEY: VALUE"},
		{"open list", "roles: [a", "line 1: a [ is not closed"},
		{"open list, and more", "roles: [a\nname: b", "line 2: a comma is missing, or a ] in a line before"},
		{"open mapping, and more", "targets:\n  - {kind: a\n    name: b}", "line 3: a comma is missing, or a } in a line before"},
		{"open quote", "name: \"secret\n", "line 1: a quote is not closed, or what is in it is not valid"},
		{"no space behind the colon", "name:a\nroles: [x]", "line 1: has a key without a colon and a space behind it"},
		{"second colon", "name: a: secret", "line 1: has a second colon; put text with a colon in quotes"},
		{"indentation", "targets:\n  - kind: a\n name: b", "line 3: does not belong to the lines before: check its indentation"},
		{"at", "name: @secret", "line 1: has a character that text cannot begin with: put the text in quotes"},
		{"anchor", "name: &a b", "line 1: has an anchor (&), which is not supported here; put text that looks like it in quotes"},
		{"alias", "name: *secret", "line 1: has an alias (*), which is not supported here; put text that looks like it in quotes"},
		{"tag", "name: !!str a", "line 1: has a tag (!), which is not supported here; put text that looks like it in quotes"},
		{"fraction", "name: 1.5", "line 1: has a number that is not whole, which is not supported here; put text that looks like it in quotes"},
		{"list in a list", "roles:\n  - - a", "line 2: a list begins right in a list"},
		{"nested", "roles: " + strings.Repeat("[", 20) + strings.Repeat("]", 20), "line 1: is nested too deep"},
		{"second document", "name: a\n---\nname: b", "line 3: a second document begins; a file has one"},
		{"control character", "name: a\x00", "line 1: has a control character: U+0000"},
		{"long line", "# " + strings.Repeat("x", maxLine), "line 1: is longer than 1024 bytes"},
		{"large", strings.Repeat("# xxx\n", 1000), "is larger than 2048 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := read(test.file); err == nil || err.Error() != test.want {
				t.Errorf("%v\nwant %s", err, test.want)
			}
		})
	}
}

func read(content string) error {
	f, err := Parse([]byte(content), 2048)
	if err != nil {
		return err
	}
	unknown, err := f.Decode(new(server))
	if err != nil {
		return append(unknown, All(err)...)
	}
	if unknown != nil {
		return unknown
	}
	return nil
}

func TestLine(t *testing.T) {
	f, err := Parse([]byte("# a file\nname: a\ntargets:\n\n  - kind: b\n  - {kind: c}\n"), 2048)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"$.name": 2, "$.targets": 5, "$.targets[0]": 5, "$.targets[1].kind": 6, "$.targets[1].name": 6, "$.targets[7]": 5, "$.roles": 1} {
		if got := f.Line(path); got != want {
			t.Errorf("%s: line %d, want %d", path, got, want)
		}
	}
}

func TestEmpty(t *testing.T) {
	for _, content := range []string{"", "# nothing\n", "---\n"} {
		if f, err := Parse([]byte(content), 2048); err != nil || !f.Empty() || read(content) != nil {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// Whatever the file, an error is one line that does not repeat what only a value has.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"name: a", "roles: [a, b]", "targets:\n  - {kind: a}\n", "\t", "a: &a [*a]", "name: \"a", "? a", "- - a", "name:\n", "%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		if err := read(content); err != nil && (err.Error() == "" || strings.ContainsAny(err.Error(), "\r\n")) {
			t.Errorf("%q: %q", content, err)
		}
	})
}

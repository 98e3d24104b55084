package main

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/manual"
)

// make dist sets it.
var manualDir = flag.String("manual", "", "directory to write the man pages and completions to")

// manualFiles writes the man pages and completions of this command.
func manualFiles(t *testing.T) (dir string, app *kong.Application) {
	t.Helper()
	if dir = *manualDir; dir == "" {
		dir = t.TempDir()
	}
	parser, err := newParser(new(commandLine), environment{})
	if err != nil {
		t.Fatal(err)
	}
	app = parser.Model
	values := manual.Values{"FORMAT": strings.Split(formatNames(func(keys.Format) bool { return true }), ", ")}
	files := map[string]string{
		"completions/sessapi.bash": manual.Bash(app, values),
		"completions/sessapi.fish": manual.Fish(app, values),
		"completions/_sessapi":     manual.Zsh(app, values),
	}
	for name, page := range manual.Pages(app) {
		files["man/"+name] = page
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, app
}

// tool returns a program, and skips the test outside CI if it is missing.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

func output(t *testing.T, command string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command, args...)
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// Each command has a man page that troff renders without a warning, with all its flags.
func TestManPages(t *testing.T) {
	dir, app := manualFiles(t)
	groff := tool(t, "groff")
	for _, node := range append(app.Leaves(true), app.Node) {
		path := filepath.Join(dir, "man", strings.ReplaceAll(node.FullPath(), " ", "-")+".1")
		cmd := exec.CommandContext(t.Context(), groff, "-man", "-Tascii", "-P-cbou", "-ww", "-rLL=200n", path)
		var warnings strings.Builder
		cmd.Stderr = &warnings
		page, err := cmd.Output()
		if err != nil || warnings.Len() > 0 {
			t.Errorf("%s: %v %s", path, err, warnings.String())
		}
		if strings.Contains(string(page), ".BR") {
			t.Errorf("%s shows a request of troff:\n%s", path, page)
		}
		for _, group := range node.AllFlags(true) {
			for _, flag := range group {
				if !strings.Contains(string(page), flag.String()) {
					t.Errorf("%s does not describe %s", path, flag)
				}
			}
		}
	}
}

// What each shell completes.
func TestCompletions(t *testing.T) {
	dir, _ := manualFiles(t)
	shells := map[string]struct {
		file, script string
	}{
		"bash": {"sessapi.bash", `source "$1"; shift
			IFS=' ' read -ra COMP_WORDS <<<"${*//=/ = }"; [[ $* != *[\ =] ]] || COMP_WORDS+=('')
			COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _sessapi; printf '%s\n' "${COMPREPLY[@]}"`},
		"fish": {"sessapi.fish", `source $argv[1]; complete -C "$argv[2]" | string replace -r '\t.*' '' | string replace -r '^--[^=]*=' ''; true`},
		// Its completion functions need a terminal. These print their candidates.
		"zsh": {"_sessapi", `
			_describe() { print -l -- ${${(P)@[-1]}%%:*} | grep -e "^$PREFIX" }
			_files() { print -l -- }
			compset() { PREFIX=${PREFIX#*=} }
			words=(${(s: :)2}); [[ $2 != *' ' ]] || words+=('')
			CURRENT=$#words PREFIX=$words[-1]; completion() { source $1 }; completion $1`},
	}
	for shell, s := range shells {
		t.Run(shell, func(t *testing.T) {
			path := tool(t, shell)
			for typed, want := range map[string]string{
				"sessapi ser":                           "serve",
				"sessapi keys ro":                       "rotate",
				"sessapi seal-key ":                     "new",
				"sessapi serve --state":                 "--state-file",
				"sessapi serve --log-level ":            "debug info warn error",
				"sessapi serve --log-format=j":          "json",
				"sessapi keys --ca ca.pem pull --form":  "--format",
				"sessapi keys pull --format ht":         "httpd",
				"sessapi serve --log-level info --audi": "--audit-log",
			} {
				args := []string{"-c", s.script}
				if shell != "fish" {
					args = append(args, shell)
				}
				got := strings.Fields(output(t, path, append(args, filepath.Join(dir, "completions", s.file), typed)...))
				words := strings.Fields(want)
				slices.Sort(got)
				slices.Sort(words)
				if !slices.Equal(got, words) {
					t.Errorf("%q completes to %q, want %q", typed, got, words)
				}
			}
		})
	}
}

// Package manual writes man pages and shell completions of a command line. Releases have
// them; the command itself does not use this package.
package manual

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Pages returns the man pages by file name: one for the program, and one for each command.
func Pages(app *kong.Application) map[string]string {
	pages := map[string]string{app.Name + ".1": page(app.Node)}
	for _, command := range app.Leaves(true) {
		pages[pageName(command)+".1"] = page(command)
	}
	return pages
}

// pageName returns the name of a man page without its section.
func pageName(node *kong.Node) string { return strings.ReplaceAll(node.FullPath(), " ", "-") }

// roff escapes a text for roff. The dashes of options stay dashes that can be copied.
func roff(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n.", "\n\\&.", "\n'", "\n\\&'").Replace(text)
}

func page(node *kong.Node) string {
	var b strings.Builder
	name := pageName(node)
	fmt.Fprintf(&b, ".TH %s 1 \"\" %s \"User Commands\"\n.nh\n.ad l\n", roff(strings.ToUpper(name)), root(node).Name)
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(summary(node.Help)))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n%s\n", roff(node.FullPath()), roff(strings.TrimSpace(strings.TrimPrefix(node.Summary(), node.Path()))))
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(node.Help))
	if len(node.Positional) > 0 {
		b.WriteString(".SH ARGUMENTS\n")
		for _, argument := range node.Positional {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(argument.Summary()), roff(argument.Help))
		}
	}
	b.WriteString(".SH OPTIONS\n")
	for _, flag := range flags(node) {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(flag.String()), roff(flag.Help))
		if len(flag.Envs) > 0 {
			fmt.Fprintf(&b, "Environment: %s.\n", roff(strings.Join(flag.Envs, ", ")))
		}
	}
	others := []string{root(node).Name}
	if node.Type == kong.ApplicationNode {
		others = nil
		b.WriteString(".SH COMMANDS\n")
		for _, command := range node.Leaves(true) {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(command.FullPath()), roff(command.Help))
			others = append(others, pageName(command))
		}
	}
	b.WriteString(".SH EXIT STATUS\n.TP\n.B 0\nSuccess.\n.TP\n.B 1\nFailure.\n.TP\n.B 2\nWrong usage: flags, arguments or settings.\n")
	for i, other := range others {
		others[i] = ".BR " + roff(other) + " (1)"
	}
	fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", strings.Join(others, ",\n"))
	return b.String()
}

func root(node *kong.Node) *kong.Node {
	for node.Parent != nil {
		node = node.Parent
	}
	return node
}

// flags returns the flags of a command, those of its parents first.
func flags(node *kong.Node) []*kong.Flag { return slices.Concat(node.AllFlags(true)...) }

package manual

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// Values is the values of flags that the command line itself does not enumerate, by
// placeholder.
type Values map[string][]string

// of returns the values that a flag can have; nil if they are not known.
func (v Values) of(flag *kong.Flag) []string {
	if flag.Enum != "" {
		return flag.EnumSlice()
	}
	return v[flag.PlaceHolder]
}

// nodes returns the program, its groups and its commands.
func nodes(node *kong.Node) []*kong.Node {
	all := []*kong.Node{node}
	for _, child := range node.Children {
		if !child.Hidden {
			all = append(all, nodes(child)...)
		}
	}
	return all
}

// paths returns patterns of the groups and commands, as in ' keys'|' keys pull'.
func paths(app *kong.Application) string {
	var all []string
	for _, node := range nodes(app.Node)[1:] {
		all = append(all, fmt.Sprintf("' %s'", node.Path()))
	}
	return strings.Join(all, "|")
}

// at returns the words that lead to a node, with a space before each.
func at(node *kong.Node) string { return strings.TrimPrefix(node.FullPath(), root(node).Name) }

// Bash returns the completion for bash. Where it knows nothing, bash completes files.
func Bash(app *kong.Application, known Values) string {
	var b strings.Builder
	fmt.Fprintf(&b, `_%[1]s() {
    local cur=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD - 1]} at= words= i
    if [[ $cur == = ]]; then # bash splits words at the equals sign
        cur=
    elif [[ $flag == = ]]; then
        flag=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$at ${COMP_WORDS[i]}" in
        %[2]s) at+=" ${COMP_WORDS[i]}" ;;
        esac
    done
    case "$at $flag" in
`, app.Name, paths(app))
	for _, node := range nodes(app.Node) {
		for _, flag := range flags(node) {
			if values := known.of(flag); values != nil {
				fmt.Fprintf(&b, "    '%s --%s') words='%s' ;;\n", at(node), flag.Name, strings.Join(values, " "))
			}
		}
	}
	b.WriteString("    *)\n        case \"$at:$cur\" in\n")
	for _, node := range nodes(app.Node) {
		var names, children []string
		for _, flag := range flags(node) {
			names = append(names, "--"+flag.Name)
		}
		for _, child := range nodes(node)[1:] {
			if child.Parent == node {
				children = append(children, child.Name)
			}
		}
		fmt.Fprintf(&b, "        '%s:-'*) words='%s' ;;\n", at(node), strings.Join(names, " "))
		if children != nil {
			fmt.Fprintf(&b, "        '%s:'*) words='%s' ;;\n", at(node), strings.Join(children, " "))
		}
	}
	fmt.Fprintf(&b, `        esac
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -o default -F _%[1]s %[1]s
`, app.Name)
	return b.String()
}

// quote quotes a text for zsh and fish.
func quote(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `'"'"'`).Replace(text) + "'"
}

// summary is the first sentence of a help text.
func summary(help string) string {
	first, _, _ := strings.Cut(help, ". ")
	return strings.TrimSuffix(first, ".")
}

// Zsh returns the completion for zsh.
func Zsh(app *kong.Application, known Values) string {
	var b strings.Builder
	fmt.Fprintf(&b, `#compdef %[1]s
local at= word flag=${words[CURRENT-1]}
local -a commands options values
if [[ $PREFIX == --*=* ]]; then
    flag=${PREFIX%%%%=*}
fi
for word in ${words[2,CURRENT-1]}; do
    case "$at $word" in
    (%[2]s) at+=" $word" ;;
    esac
done
case "$at $flag" in
`, app.Name, paths(app))
	// describe is an entry of _describe, NAME:TEXT.
	describe := func(name, help string) string {
		return quote(name + ":" + strings.ReplaceAll(summary(help), ":", `\:`))
	}
	for _, node := range nodes(app.Node) {
		for _, flag := range flags(node) {
			if values := known.of(flag); values != nil {
				fmt.Fprintf(&b, "('%s --%s') values=(%s) ;;\n", at(node), flag.Name, strings.Join(values, " "))
			}
		}
	}
	b.WriteString("esac\ncase $at in\n")
	for _, node := range nodes(app.Node) {
		fmt.Fprintf(&b, "('%s')\n    options=(\n", at(node))
		for _, flag := range flags(node) {
			fmt.Fprintf(&b, "        %s\n", describe("--"+flag.Name, flag.Help))
		}
		b.WriteString("    )\n    commands=(\n")
		for _, child := range nodes(node)[1:] {
			if child.Parent == node {
				fmt.Fprintf(&b, "        %s\n", describe(child.Name, child.Help))
			}
		}
		b.WriteString("    )\n    ;;\n")
	}
	b.WriteString(`esac
if (( $#values )); then
    compset -P '--*='
    _describe value values
elif [[ $PREFIX == --*=* ]]; then
    compset -P '--*='
    _files
elif [[ $PREFIX == -* ]]; then
    _describe -o option options
elif (( $#commands )); then
    _describe command commands
else
    _files
fi
`)
	return b.String()
}

// Fish returns the completion for fish.
func Fish(app *kong.Application, known Values) string {
	var b strings.Builder
	fmt.Fprintf(&b, `function __%[1]s_at
    set -l at ''
    for word in (commandline -opc)[2..]
        switch "$at $word"
            case %[2]s
                set at "$at $word"
        end # switch
    end
    test "$at" = "$argv"
end
`, app.Name, strings.ReplaceAll(paths(app), "|", " "))
	for _, node := range nodes(app.Node) {
		condition := fmt.Sprintf("complete -c %s -n \"__%[1]s_at '%s'\"", app.Name, at(node))
		for _, child := range nodes(node)[1:] {
			if child.Parent == node {
				fmt.Fprintf(&b, "%s -f -a %s -d %s\n", condition, child.Name, quote(summary(child.Help)))
			}
		}
		for _, flag := range flags(node) {
			option := fmt.Sprintf("%s -l %s -d %s", condition, flag.Name, quote(summary(flag.Help)))
			values := known.of(flag)
			switch {
			case values != nil:
				option += " -x -a " + quote(strings.Join(values, " "))
			case !flag.IsBool():
				option += " -r"
			}
			fmt.Fprintln(&b, option)
		}
	}
	return b.String()
}

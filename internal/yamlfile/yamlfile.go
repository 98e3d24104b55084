// Package yamlfile reads the YAML files that people write. Its errors have line and key,
// in words that need no knowledge of YAML.
//
// It reads the part of YAML that such files need: mappings, lists and plain values.
// It rejects anchors and aliases, which let a small file grow without bound, tags,
// further documents, and keys without a value, which YAML would read as if they were
// not there.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/sessapi/sessapi/internal/files"
)

const (
	// maxLine bounds a line, in bytes: the time that the YAML library needs grows with
	// the square of its length.
	maxLine = 1 << 10
	// maxNesting is more than any of our files needs.
	maxNesting = 8
	// maxUnknown bounds the unknown keys that are looked for: each costs as much as the
	// whole file.
	maxUnknown = 16
)

// Error is one error of a file. It never repeats a value, which may be a secret.
type Error struct {
	Line int // 0 is the file as a whole
	Text string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Text
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Text)
}

// Place is FILE:LINE, or FILE for line 0, which is the file as a whole.
func Place(path string, line int) string {
	if line == 0 {
		return path
	}
	return fmt.Sprintf("%s:%d", path, line)
}

// Errors are the errors of a file. Its text is one line.
type Errors []*Error

func (e Errors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// All returns the errors of a file one by one.
func All(err error) Errors {
	if several, ok := errors.AsType[Errors](err); ok {
		return several
	}
	if one, ok := errors.AsType[*Error](err); ok {
		return Errors{one}
	}
	return Errors{{Text: err.Error()}}
}

// File is a parsed file.
type File struct {
	data []byte
	body ast.Node // nil when it is empty
}

// notSupported names the parts of YAML that a file cannot have.
var notSupported = map[token.Type]string{
	token.AnchorType:        "an anchor (&)",
	token.AliasType:         "an alias (*)",
	token.TagType:           "a tag (!)",
	token.DirectiveType:     "a directive (%)",
	token.MappingKeyType:    "a key that begins with ?",
	token.MergeKeyType:      "a merge (<<)",
	token.LiteralType:       "a block of text (|)",
	token.FoldedType:        "a block of text (>)",
	token.FloatType:         "a number that is not whole",
	token.BoolType:          "true or false",
	token.HexIntegerType:    "a number that is not decimal",
	token.OctetIntegerType:  "a number that is not decimal",
	token.BinaryIntegerType: "a number that is not decimal",
	token.InfinityType:      "an infinite number",
	token.NanType:           "a value that is not a number",
}

// Parse reads a file of at most limit bytes. Values are text, whole decimal numbers, or
// of the types in besides. If only values are missing, it returns the file with the error.
func Parse(data []byte, limit int, besides ...token.Type) (*File, error) {
	if len(data) > limit {
		return nil, &Error{Text: fmt.Sprintf("is larger than %d bytes", limit)}
	}
	if line, r, bad := files.ControlCharacter(data); bad { // a bare CR would end a comment
		return nil, &Error{line, fmt.Sprintf("%s: %U", files.ErrControlCharacter, r)}
	}
	f := &File{data: data}
	line := 0
	for text := range bytes.Lines(data) {
		line++
		if len(text) > maxLine {
			return nil, &Error{line, fmt.Sprintf("is longer than %d bytes", maxLine)}
		}
		if indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]; bytes.Contains(indent, []byte("\t")) && len(bytes.TrimSpace(text)) > 0 {
			return nil, &Error{line, "is indented with a tab; use spaces"}
		}
	}
	tokens := lexer.Tokenize(string(data))
	if err := check(tokens, besides); err != nil {
		return nil, err
	}
	parsed, err := parser.Parse(tokens, 0)
	if err != nil {
		return nil, f.explain(err)
	}
	for _, doc := range parsed.Docs {
		if doc.Body == nil {
			continue
		}
		if f.body != nil {
			return nil, &Error{doc.Body.GetToken().Position.Line, "a second document begins; a file has one"}
		}
		f.body = doc.Body
	}
	if f.body == nil {
		return f, nil
	}
	return f, f.checkValues()
}

// check refuses what a file cannot have before it is parsed.
func check(tokens token.Tokens, besides []token.Type) error {
	depth := 0
	for i, t := range tokens {
		line := t.Position.Line
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType:
			if i > 0 && tokens[i-1].Type == token.SequenceEntryType {
				return &Error{line, "a list begins right in a list"}
			}
		case token.MappingValueType, token.CollectEntryType, token.CommentType,
			token.StringType, token.SingleQuoteType, token.DoubleQuoteType, token.IntegerType, token.NullType,
			token.DocumentHeaderType, token.DocumentEndType:
		case token.InvalidType:
			if origin := strings.TrimSpace(t.Origin); strings.HasPrefix(origin, `"`) || strings.HasPrefix(origin, "'") {
				return &Error{line, "a quote is not closed, or what is in it is not valid"}
			}
			return &Error{line, "has a character that text cannot begin with: put the text in quotes"}
		default:
			if !slices.Contains(besides, t.Type) {
				what := notSupported[t.Type]
				if what == "" {
					what = t.Type.String()
				}
				return &Error{line, "has " + what + ", which is not supported here; put text that looks like it in quotes"}
			}
		}
		if depth > maxNesting || t.Position.IndentNum > 16*maxNesting {
			return &Error{line, "is nested too deep"}
		}
	}
	return nil
}

// checkValues refuses keys and list entries without a value.
func (f *File) checkValues() error {
	var errs Errors
	found := map[ast.Node]bool{}
	for _, node := range ast.Filter(ast.MappingValueType, f.body) {
		if pair := node.(*ast.MappingValueNode); pair.Value.Type() == ast.NullType {
			found[pair.Value] = true
			key := pair.Key.GetToken()
			errs = append(errs, &Error{key.Position.Line, key.Value + ": has no value"})
		}
	}
	for _, node := range ast.Filter(ast.NullType, f.body) {
		if !found[node] {
			errs = append(errs, &Error{node.GetToken().Position.Line, "has an entry without a value"})
		}
	}
	if errs == nil {
		return nil
	}
	return errs
}

// Empty reports whether the file has nothing but comments.
func (f *File) Empty() bool { return f.body == nil }

// Decode fills a struct or map. Unknown has an error for each key that it does not
// have; the file is without these keys from then on.
func (f *File) Decode(into any) (unknown Errors, err error) {
	defer func() { // the library finds them in no order
		slices.SortStableFunc(unknown, func(a, b *Error) int { return a.Line - b.Line })
	}()
	for f.body != nil {
		err := yaml.NodeToValue(f.body, into, yaml.Strict())
		if err == nil {
			break
		}
		if own, ok := errors.AsType[*Error](err); ok { // of a type that reads itself
			return unknown, own
		}
		field, ok := errors.AsType[*yaml.UnknownFieldError](err)
		if !ok || len(unknown) == maxUnknown || !f.remove(field.GetToken()) {
			return unknown, f.explain(err)
		}
		explained := f.explain(err)
		explained.Text += Suggest(field.GetToken().Value, keysOf(reflect.TypeOf(into)))
		unknown = append(unknown, explained)
	}
	return unknown, nil
}

// remove takes a key and its value out of the file, if they are there.
func (f *File) remove(key *token.Token) (removed bool) {
	for _, node := range ast.Filter(ast.MappingType, f.body) {
		mapping := node.(*ast.MappingNode)
		before := len(mapping.Values)
		mapping.Values = slices.DeleteFunc(mapping.Values, func(pair *ast.MappingValueNode) bool { return pair.Key.GetToken() == key })
		removed = removed || len(mapping.Values) < before
	}
	return removed
}

// Line is the line of a value, by its path such as $.identities[0].name, or of the
// innermost of those around it that is there; 1 when none is.
func (f *File) Line(path string) int {
	for path != "$" && path != "" {
		if p, err := yaml.PathString(path); err == nil {
			if node, err := p.FilterNode(f.body); err == nil && node != nil {
				return firstLine(node)
			}
		}
		path = path[:strings.LastIndexAny(path, ".[")]
	}
	return 1
}

// firstLine is where a node begins: the token of a mapping is its first colon.
func firstLine(node ast.Node) int {
	if mapping, ok := node.(*ast.MappingNode); ok && len(mapping.Values) > 0 {
		return mapping.Values[0].Key.GetToken().Position.Line
	}
	if sequence, ok := node.(*ast.SequenceNode); ok && len(sequence.Values) > 0 {
		return firstLine(sequence.Values[0])
	}
	return node.GetToken().Position.Line
}

// inWords are the texts of the library, which has no other way to tell its errors apart,
// and what they mean.
var inWords = []struct {
	message *regexp.Regexp
	words   string
}{
	{regexp.MustCompile(`^sequence end token ']' not found`), "a [ is not closed"},
	{regexp.MustCompile(`^(could not find flow map|mapping end token|flow mapping end token).*}`), "a { is not closed"},
	{regexp.MustCompile(`^',' or '(.)' must be specified`), "a comma is missing, or a $1 in a line before"},
	{regexp.MustCompile(`^mapping value is not allowed in this context`), "has a second colon; put text with a colon in quotes"},
	{regexp.MustCompile(`^(value is not allowed in this context|non-map value is specified)`), "does not belong to the lines before: check its indentation"},
	{regexp.MustCompile(`^unexpected key name`), "has a key without a colon and a space behind it"},
	{regexp.MustCompile(`^unknown field "(.*)"`), `unknown key "$1"`},
	{regexp.MustCompile(`^mapping key "(.*)" already defined at \[(\d+):.*`), `"$1" is given twice, first in line $2`},
}

// keyBefore is the key of a value that begins behind it.
var keyBefore = regexp.MustCompile(`([\w-]+)["']?\s*:\s*$`)

// explain puts an error of the library into words. An unknown error is
// told by its line alone: the text may repeat a value.
func (f *File) explain(err error) *Error {
	located, ok := errors.AsType[yaml.Error](err)
	if !ok || located.GetToken() == nil {
		return &Error{Text: "is not valid YAML"}
	}
	at := located.GetToken().Position
	switch located := located.(type) {
	case *yaml.UnexpectedNodeTypeError:
		if located.Expected == ast.SequenceType {
			return f.mustBe(at, "a list")
		}
		return f.mustBe(at, "a mapping, in lines of KEY: VALUE")
	case *yaml.TypeError:
		if located.DstType.Kind() == reflect.Int {
			return f.mustBe(at, "a number")
		}
		return f.mustBe(at, "a single value")
	}
	message := located.GetMessage()
	for _, w := range inWords {
		if match := w.message.FindStringSubmatchIndex(message); match != nil {
			return &Error{at.Line, string(w.message.ExpandString(nil, w.words, message, match))}
		}
	}
	return &Error{at.Line, "is not valid YAML here"}
}

// mustBe is the error of a value of another kind, with its key if that stands before it.
func (f *File) mustBe(at *token.Position, kind string) *Error {
	text := "must be " + kind
	if lines := bytes.Split(f.data, []byte("\n")); at.Line <= len(lines) {
		before := []rune(string(lines[at.Line-1]))
		if key := keyBefore.FindStringSubmatch(string(before[:min(at.Column-1, len(before))])); key != nil {
			text = key[1] + ": " + text
		}
	}
	return &Error{at.Line, text}
}

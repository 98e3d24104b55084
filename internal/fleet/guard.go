package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Limits on replies passed to the client library. It believes what a server announces: a
// length that is wrong makes it panic, or take as much memory, and a reply that nobody
// asked for makes it panic. It does that in goroutines of its own, which nobody can
// recover. See guard.
const (
	maxBlob     = 128 << 10 // of a string; the largest record is smaller
	maxLine     = 16 << 10  // of an error, or other text on a line
	maxDepth    = 8         // of arrays in arrays; CLUSTER SLOTS has 4
	maxElements = 1 << 18   // of a reply, in all its arrays
	maxReply    = 8 << 20   // in bytes

	_ = uint(maxBlob - maxRecord - 1) // a record fits, with the byte more that get asks for
)

// errProtocol is why a connection was closed. What it wraps says which rule was broken,
// and holds nothing that was received.
var errProtocol = errors.New("fleet: what Redis sent breaks its protocol, or is too large")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// guard is a connection to Redis, or to a Sentinel, that closes when what comes in is not
// what Redis sends: see scanner for the framing. Each reply must be that of a command
// that was sent, and have the form that the library takes for granted.
type guard struct {
	net.Conn
	broken func(error) // is told why it closes

	reading scanner // for Read alone
	writing scanner // for Write alone

	mu      sync.Mutex // guards what follows
	pending []pending  // the commands that were sent and not answered yet
	unused  []pending  // the array of pending from its beginning, for when all are answered
	unsub   bool       // the last one was UNSUBSCRIBE
}

// pending is what a command is answered with.
type pending struct {
	kind     pendingKind
	channels int // that remain to be confirmed
}

type pendingKind int

const (
	anyReply     pendingKind = iota
	subscription             // a push for each channel
	pong                     // of the PING that the library sends behind UNSUBSCRIBE
	address                  // host and port, or nothing
	role                     // some elements
)

func newGuard(conn net.Conn, broken func(error)) *guard {
	g := &guard{Conn: conn, broken: broken}
	g.reading = scanner{bounded: true, done: g.received}
	g.writing = scanner{done: g.sent}
	return g
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if bad := g.reading.scan(p[:n]); bad != nil {
		g.broken(bad)
		_ = g.Close()
		clear(p[:n])
		return 0, bad
	}
	return n, err
}

func (g *guard) Write(p []byte) (int, error) {
	if err := g.writing.scan(p); err != nil { // before there can be an answer
		return 0, err
	}
	return g.Conn.Write(p)
}

// sent notes a command.
func (g *guard) sent(m *message) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := pending{}
	switch name := m.words[0]; {
	case bytes.EqualFold(name, []byte("SUBSCRIBE")):
		p = pending{subscription, m.count - 1}
	case bytes.EqualFold(name, []byte("UNSUBSCRIBE")): // answered by pushes that the library skips
		g.unsub = true
		return nil
	case g.unsub:
		p.kind = pong
	case bytes.EqualFold(name, []byte("SENTINEL")) && bytes.EqualFold(m.words[1], []byte("GET-MASTER-ADDR-BY-NAME")):
		p.kind = address
	case bytes.EqualFold(name, []byte("ROLE")):
		p.kind = role
	}
	g.unsub = false
	grown := append(g.pending, p)
	if cap(grown) > cap(g.pending) {
		g.unused = grown[:0]
	}
	g.pending = grown
	return nil
}

// answered drops the first command that is pending.
func (g *guard) answered() {
	if g.pending = g.pending[1:]; len(g.pending) == 0 {
		g.pending = g.unused // else each command would need a new array
	}
}

// received checks a reply, or a push.
func (g *guard) received(m *message) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.kind == '>' {
		return g.pushed(m)
	}
	if len(g.pending) == 0 {
		return violation("a reply to no command")
	}
	if !g.pending[0].kind.allows(m) {
		return violation("a reply of another form than the command's")
	}
	g.answered()
	return nil
}

// allows reports whether a reply has the form that the library takes for granted.
func (k pendingKind) allows(m *message) bool {
	switch k {
	case subscription:
		return m.kind == '-'
	case pong:
		return string(m.words[0]) == "PONG"
	case address:
		return m.kind == '-' || m.kind == '_' || m.kind == '*' && (m.count == -1 || m.count == 2)
	case role:
		return m.kind == '-' || m.kind == '*' && m.count >= 1
	}
	return true
}

// pushed checks a push. Those that the library does not know it skips.
func (g *guard) pushed(m *message) error {
	name := string(m.words[0])
	switch {
	case m.count < 2:
		return violation("a push of %d elements", m.count)
	case name == "message":
		// What Sentinels tell is words, which the library counts on.
		words := 4
		if string(m.words[1]) == "+switch-master" {
			words = 5
		}
		if m.count != 3 || bytes.Count(m.words[2], []byte(" ")) < words-1 {
			return violation("a message of another form")
		}
	case name == "unsubscribe":
	case name == "subscribe" && len(g.pending) > 0 && g.pending[0].kind == subscription:
		if g.pending[0].channels--; g.pending[0].channels <= 0 {
			g.answered()
		}
	case bytes.HasSuffix(m.words[0], []byte("subscribe")):
		return violation("a subscription that was not asked for")
	}
	return nil
}

// message is what is known of one that was scanned.
type message struct {
	kind  byte      // its first
	count int       // of its elements; -1 for a null array
	words [3][]byte // its first elements as far as they are text, or its own text, cut to maxWord
	size  int       // in bytes, so far
	total int       // of its elements and theirs
}

const maxWord = 1 << 10

// scanner follows the framing of RESP3 as bytes come in, and keeps none but a line and
// the first words of a message. It takes less than the library does: no streams, no
// attributes, no sets, no end of a line but CR LF, no pushes in arrays, no negative length,
// and, when bounded, nothing beyond the limits.
type scanner struct {
	bounded bool
	done    func(*message) error // is told of each whole message, which it does not keep

	message message
	open    []int  // how many elements remain of each array that is open
	line    []byte // so far
	blob    int    // how many bytes of a string remain; its CR LF is a line
	inBlob  bool
}

// scan reads on. After an error it must not be called again.
func (s *scanner) scan(p []byte) error {
	for len(p) > 0 {
		if s.inBlob && s.blob > 0 {
			n := min(s.blob, len(p))
			s.text(p[:n])
			s.blob -= n
			if p = p[n:]; s.message.add(n) && s.bounded {
				return violation("a reply of more than %d bytes", maxReply)
			}
			continue
		}
		n := bytes.IndexByte(p, '\n') + 1
		part := p
		if n > 0 {
			part = p[:n]
		}
		if len(s.line)+len(part) > maxLine {
			return violation("a line of more than %d bytes", maxLine)
		}
		s.line = append(s.line, part...)
		if s.message.add(len(part)) && s.bounded {
			return violation("a reply of more than %d bytes", maxReply)
		}
		if err := s.header(); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		p = p[n:]
		line := s.line
		s.line = s.line[:0]
		if err := s.ended(line); err != nil {
			return err
		}
	}
	return nil
}

// add counts bytes, and reports whether they are too many.
func (m *message) add(n int) bool {
	m.size += n
	return m.size > maxReply
}

// header refuses the beginning of a line that no line has, before the library can see it.
func (s *scanner) header() error {
	if s.inBlob {
		if len(s.line) > 2 || s.line[0] != '\r' || len(s.line) == 2 && s.line[1] != '\n' {
			return violation("a string that is longer than it said")
		}
		return nil
	}
	most := maxLine
	switch kind := s.line[0]; kind {
	case '$', '!', '=', '*', '%', ':':
		most = len(":-123456789012345678\r\n")
	case '>':
		if most = len(">123\r\n"); len(s.open) > 0 {
			return violation("a push in a reply")
		}
	case '_':
		most = len("_\r\n")
	case '#':
		most = len("#t\r\n")
	case '+', '-', ',', '(':
	default:
		return violation("a message of the unknown kind %#x", kind)
	}
	if len(s.line) > most {
		return violation("a line of more than %d bytes for %q", most, s.line[0])
	}
	return nil
}

// ended takes a whole line.
func (s *scanner) ended(line []byte) error {
	if s.inBlob {
		s.inBlob = false
		return s.element(0)
	}
	kind, text := line[0], line[1:]
	text, crlf := bytes.CutSuffix(text, []byte("\r\n"))
	if !crlf || bytes.IndexByte(text, '\r') >= 0 {
		return violation("a line without CR LF")
	}
	if len(s.open) == 0 {
		s.message.kind, s.message.count = kind, 1
	}
	switch kind {
	case '+', '-', ',', '(':
		s.text(text)
		return s.element(0)
	case '_', '#':
		if (kind == '_') != (len(text) == 0) {
			return violation("a null or a boolean of another form")
		}
		return s.element(0)
	}
	if kind == ':' { // an offset that a replica does not know is -1
		text = bytes.TrimPrefix(text, []byte("-"))
	}
	number, ok := parseNumber(text)
	null := string(text) == "-1" && (kind == '$' || kind == '*')
	if !ok && !null {
		return violation("a number that is none, or negative")
	}
	switch kind {
	case ':':
		return s.element(0)
	case '$', '!', '=':
		if null {
			return s.element(0)
		}
		if s.bounded && number > maxBlob {
			return violation("a string of more than %d bytes", maxBlob)
		}
		s.inBlob, s.blob = true, number
		return nil
	}
	if kind == '%' {
		number *= 2
	}
	if s.message.total += number; s.message.total > maxElements {
		return violation("more than %d elements", maxElements)
	}
	if len(s.open) == 0 {
		s.message.count = number
		if null {
			s.message.count = -1
		}
	}
	return s.element(number)
}

// text keeps what is one of the first words of a message, or the message itself.
func (s *scanner) text(p []byte) {
	i := 0
	if len(s.open) == 1 {
		i = s.message.count - s.open[0]
	}
	if i > 0 && hasPassword(s.message.words[0]) {
		return
	}
	if len(s.open) <= 1 && i < len(s.message.words) {
		w := &s.message.words[i]
		*w = append(*w, p[:min(len(p), maxWord-len(*w))]...)
	}
}

// hasPassword reports whether the command of this name has one, which is not kept.
func hasPassword(name []byte) bool {
	return bytes.EqualFold(name, []byte("AUTH")) || bytes.EqualFold(name, []byte("HELLO"))
}

// element ends an element, or the header of an array with elements of its own.
func (s *scanner) element(elements int) error {
	if elements > 0 {
		if s.open = append(s.open, elements); len(s.open) > maxDepth {
			return violation("arrays more than %d deep", maxDepth)
		}
		return nil
	}
	for len(s.open) > 0 {
		last := len(s.open) - 1
		if s.open[last]--; s.open[last] > 0 {
			return nil
		}
		s.open = s.open[:last]
	}
	err := s.done(&s.message)
	words := s.message.words
	for i := range words {
		words[i] = words[i][:0]
	}
	s.message = message{words: words}
	return err
}

// parseNumber reads a number of at most 18 digits and nothing else.
func parseNumber(text []byte) (n int, ok bool) {
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, len(text) > 0 && len(text) <= 18
}

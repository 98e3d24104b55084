package auth

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/sessapi/sessapi/internal/files"
)

// MaxPolicyBytes is the largest policy that is taken.
const MaxPolicyBytes = 1 << 20

// maxLine is the longest line of a policy, in bytes: what the YAML library takes
// for a line grows with the square of its length.
const maxLine = 1 << 10

// maxNesting is more than a policy needs: it has a mapping in a list in a
// mapping in a list in a mapping.
const maxNesting = 8

// Identity is who sent a request. It must not be changed.
type Identity struct {
	Name  string
	Roles Roles
}

// Policy is who may do what. It does not change, and so is safe for concurrent
// use.
type Policy struct {
	tokens       map[TokenHash]bearer
	publicKeys   map[[sha256.Size]byte]*Identity
	spiffe, dns  map[string]*Identity
	uids         map[uint32]*Identity
	identityName map[string]bool
}

// bearer is what a token proves.
type bearer struct {
	hash     TokenHash
	identity *Identity
	expires  time.Time // zero: never
}

// document is a policy as it is written.
type document struct {
	Identities []struct {
		Name   string   `yaml:"name"`
		Roles  []string `yaml:"roles"`
		Tokens []struct {
			SHA256  string  `yaml:"sha256"`
			Expires *string `yaml:"expires"`
		} `yaml:"tokens"`
		Certificates []struct {
			SPIFFE          string `yaml:"spiffe"`
			DNS             string `yaml:"dns"`
			PublicKeySHA256 string `yaml:"public_key_sha256"`
		} `yaml:"certificates"`
		UIDs []uid `yaml:"uids"`
	} `yaml:"identities"`
}

// uid is a user ID as it is written: in decimal, and nothing else. The YAML
// library would make one of a fraction and of an octal number too.
type uid uint32

// overflowUID is what the kernel shows a user as that has no number in this
// process's user namespace (user_namespaces(7)), and what many systems call
// nobody: it may be anybody.
const overflowUID = 65534

// UnmarshalYAML is part of [yaml.NodeUnmarshaler].
func (u *uid) UnmarshalYAML(node ast.Node) error {
	text := node.GetToken().Value
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || text != strconv.FormatUint(n, 10) {
		return fmt.Errorf("line %d: uids: must be plain numbers from 0 to %d", node.GetToken().Position.Line, uint32(math.MaxUint32))
	}
	*u = uid(n)
	return nil
}

// Parse reads a policy, a YAML document as docs/policy.md describes it. The
// error says where something is wrong, and never holds what might be a token.
func Parse(data []byte) (*Policy, error) {
	var d document
	if err := decode(data, &d); err != nil {
		return nil, err
	}
	if len(d.Identities) == 0 {
		return nil, errors.New("identities: there are none, so that nobody could do anything")
	}
	p := &Policy{
		tokens:       map[TokenHash]bearer{},
		publicKeys:   map[[sha256.Size]byte]*Identity{},
		spiffe:       map[string]*Identity{},
		dns:          map[string]*Identity{},
		uids:         map[uint32]*Identity{},
		identityName: map[string]bool{},
	}
	for i := range d.Identities {
		if err := p.add(&d, i); err != nil {
			return nil, fmt.Errorf("identities[%d] (%q): %w", i, d.Identities[i].Name, err)
		}
	}
	return p, nil
}

// decode decodes YAML by the letter, and only as much of YAML as a policy needs:
// no anchors and aliases, which make much of little, no tags, no deep nesting, no
// numbers but whole ones, and nothing without a value, which would be read as if it
// were not there.
func decode(data []byte, d *document) error {
	if len(data) > MaxPolicyBytes {
		return fmt.Errorf("is larger than %d bytes", MaxPolicyBytes)
	}
	if err := files.CheckText(data); err != nil { // a bare CR would end a comment
		return err
	}
	line := 0
	for text := range bytes.Lines(data) {
		if line++; len(text) > maxLine {
			return fmt.Errorf("line %d: is longer than %d bytes", line, maxLine)
		}
	}
	tokens := lexer.Tokenize(string(data))
	depth := 0
	for i, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType:
			if i > 0 && tokens[i-1].Type == token.SequenceEntryType {
				return fmt.Errorf("line %d: a list right in a list", t.Position.Line)
			}
		case token.MappingValueType, token.CollectEntryType, token.CommentType,
			token.StringType, token.SingleQuoteType, token.DoubleQuoteType, token.IntegerType, token.NullType:
		case token.DocumentHeaderType, token.DocumentEndType:
			// How many documents there are shows below.
		default:
			return fmt.Errorf("line %d: %v is more of YAML than a policy takes; text that looks like it needs quotes", t.Position.Line, t.Type)
		}
		if depth > maxNesting || t.Position.IndentNum > 16*maxNesting {
			return fmt.Errorf("line %d: nested too deep", t.Position.Line)
		}
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		return errors.New(firstLine(err))
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		return errors.New("must be one YAML document")
	}
	for _, null := range ast.Filter(ast.NullType, file.Docs[0].Body) {
		return fmt.Errorf("line %d: there is no value", null.GetToken().Position.Line)
	}
	if err := yaml.NodeToValue(file.Docs[0].Body, d, yaml.Strict()); err != nil {
		return errors.New(firstLine(err))
	}
	return nil
}

// firstLine leaves out the excerpt of the file that the library's errors carry.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// add adds the i-th identity.
func (p *Policy) add(d *document, i int) error {
	written := &d.Identities[i]
	switch {
	case !plainName(written.Name):
		return errors.New("name: must be 1 to 64 of letters, digits and -_:. and nothing else")
	case p.identityName[written.Name]:
		return errors.New("name: is that of another identity")
	case len(written.Roles) == 0:
		return errors.New("roles: there are none")
	case len(written.Tokens)+len(written.Certificates)+len(written.UIDs) == 0:
		return errors.New("has no tokens, certificates or uids")
	}
	p.identityName[written.Name] = true
	identity := &Identity{Name: written.Name}
	for _, name := range written.Roles {
		var role Roles
		if err := role.UnmarshalText([]byte(name)); err != nil {
			return fmt.Errorf("roles: %w", err)
		}
		identity.Roles |= role
	}
	for i, t := range written.Tokens {
		if err := p.addToken(identity, t.SHA256, t.Expires); err != nil {
			return fmt.Errorf("tokens[%d]: %w", i, err)
		}
	}
	for i, c := range written.Certificates {
		if err := p.addCertificate(identity, c.SPIFFE, c.DNS, c.PublicKeySHA256); err != nil {
			return fmt.Errorf("certificates[%d]: %w", i, err)
		}
	}
	for i, uid := range written.UIDs {
		if uid == overflowUID {
			return fmt.Errorf("uids[%d]: %d is whoever has no number in the user namespace of the service", i, uid)
		}
		if err := addTo(p.uids, uint32(uid), identity); err != nil {
			return fmt.Errorf("uids[%d]: %w", i, err)
		}
	}
	return nil
}

// plainName reports whether a name is good for a log line.
func plainName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(c rune) bool {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune("-_.:", c):
			return false
		}
		return true
	})
}

var errTaken = errors.New("the same credential stands here or at another identity already")

func addTo[K comparable](credentials map[K]*Identity, key K, identity *Identity) error {
	if credentials[key] != nil {
		return errTaken
	}
	credentials[key] = identity
	return nil
}

func (p *Policy) addToken(identity *Identity, sum string, expires *string) error {
	hash, err := parseHash(sum)
	if err != nil {
		return fmt.Errorf("sha256: %w", err)
	}
	if _, taken := p.tokens[hash]; taken {
		return errTaken
	}
	b := bearer{hash: hash, identity: identity}
	if expires != nil {
		if b.expires, err = time.Parse(time.RFC3339, *expires); err != nil {
			return errors.New("expires: must be a time like 2027-01-31T00:00:00Z (RFC 3339)")
		}
	}
	p.tokens[hash] = b
	return nil
}

func (p *Policy) addCertificate(identity *Identity, spiffe, dns, publicKey string) error {
	switch {
	case spiffe != "" && dns == "" && publicKey == "":
		if !isSPIFFE(spiffe) {
			return errors.New("spiffe: must be an ID like spiffe://example.org/edge")
		}
		return addTo(p.spiffe, spiffe, identity)
	case dns != "" && spiffe == "" && publicKey == "":
		if !isHostname(dns) {
			return errors.New("dns: must be a host name, without wildcards")
		}
		return addTo(p.dns, strings.ToLower(dns), identity)
	case publicKey != "" && spiffe == "" && dns == "":
		hash, err := parseHash(publicKey)
		if err != nil {
			return fmt.Errorf("public_key_sha256: %w", err)
		}
		return addTo(p.publicKeys, hash, identity)
	}
	return errors.New("must have one of spiffe, dns and public_key_sha256")
}

// parseHash reads a SHA-256 in hex or in standard base64. The error does not
// repeat it: it may be the token itself.
func parseHash(s string) (hash [sha256.Size]byte, err error) {
	raw, err := hex.DecodeString(s)
	if err != nil {
		raw, err = base64.StdEncoding.Strict().DecodeString(s)
	}
	if err != nil || len(raw) != len(hash) {
		return hash, errors.New("must be a SHA-256 in hex or base64")
	}
	return [sha256.Size]byte(raw), nil
}

// isSPIFFE reports whether s is a SPIFFE ID of a workload (SPIFFE-ID, section 2):
// a trust domain in lower case and a path, nothing else.
func isSPIFFE(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "spiffe" && isHostname(u.Host) && u.Host == strings.ToLower(u.Host) &&
		len(u.Path) > 1 && !strings.HasSuffix(u.Path, "/") && s == "spiffe://"+u.Host+u.Path && len(s) <= 2048
}

// isHostname reports whether s can be a host name.
func isHostname(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(c rune) bool {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune("-_.", c):
			return false
		}
		return true
	})
}

// Identities is how many there are.
func (p *Policy) Identities() int { return len(p.identityName) }

// ErrUnauthenticated is what every failure to prove an identity is: what was
// wrong is for the metrics and not for who sent it.
var ErrUnauthenticated = errors.New("no valid credentials")

// Error is a failure to prove an identity. It is [ErrUnauthenticated].
type Error struct{ Reason Reason }

func (e *Error) Error() string { return ErrUnauthenticated.Error() + ": " + e.Reason.String() }

// Unwrap returns ErrUnauthenticated.
func (e *Error) Unwrap() error { return ErrUnauthenticated }

// The failures are made once: whoever floods the service with wrong tokens shall
// not make it allocate.
var failures = [...]*Error{
	Missing: {Missing}, Malformed: {Malformed}, Unknown: {Unknown}, Expired: {Expired}, Ambiguous: {Ambiguous},
}

// Identify returns the identity that the request proves at this time, or an
// [Error].
func (p *Policy) Identify(r *http.Request, now time.Time) (*Identity, error) {
	if header := r.Header["Authorization"]; len(header) > 0 {
		return p.byToken(header, now)
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return p.byCertificate(r.TLS.VerifiedChains[0][0], now)
	}
	if uid, ok := peerUID(r); ok {
		if identity := p.uids[uid]; identity != nil {
			return identity, nil
		}
		return nil, failures[Unknown]
	}
	return nil, failures[Missing]
}

// byToken looks the token up by its hash. How long that takes depends on hashes
// alone: to make one that is close to a known one, a client would have to find
// preimages of SHA-256, so the time tells it nothing of a token. The last word
// is a comparison in constant time all the same.
func (p *Policy) byToken(header []string, now time.Time) (*Identity, error) {
	const scheme = "Bearer "
	if len(header) != 1 || len(header[0]) < len(scheme) || !strings.EqualFold(header[0][:len(scheme)], scheme) {
		return nil, failures[Malformed]
	}
	hash, ok := hashToken(header[0][len(scheme):])
	if !ok {
		return nil, failures[Malformed]
	}
	b, ok := p.tokens[hash]
	if !ok || subtle.ConstantTimeCompare(b.hash[:], hash[:]) != 1 {
		return nil, failures[Unknown]
	}
	if !b.expires.IsZero() && !now.Before(b.expires) {
		return nil, failures[Expired]
	}
	return b.identity, nil
}

// byCertificate looks up a certificate that was verified. One that is several
// identities is none: which one was meant is not to be guessed.
func (p *Policy) byCertificate(cert *x509.Certificate, now time.Time) (*Identity, error) {
	if now.After(cert.NotAfter) { // since the handshake
		return nil, failures[Expired]
	}
	found := p.publicKeys[sha256.Sum256(cert.RawSubjectPublicKeyInfo)]
	ambiguous := false
	match := func(identity *Identity) {
		ambiguous = ambiguous || found != nil && identity != nil && found != identity
		if identity != nil {
			found = identity
		}
	}
	if uris := rawURIs(cert); len(uris) == 1 { // an SVID has exactly one (X509-SVID, section 2)
		match(p.spiffe[uris[0]])
	}
	for _, name := range cert.DNSNames {
		match(p.dns[strings.ToLower(name)])
	}
	switch {
	case ambiguous:
		return nil, failures[Ambiguous]
	case found == nil:
		return nil, failures[Unknown]
	}
	return found, nil
}

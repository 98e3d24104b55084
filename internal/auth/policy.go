package auth

import (
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

	"github.com/goccy/go-yaml/ast"

	"github.com/sessapi/sessapi/internal/yamlfile"
)

// MaxPolicyBytes is the maximum size of a policy.
const MaxPolicyBytes = 1 << 20

// Identity is the sender of a request. It must not be changed.
type Identity struct {
	Name  string
	Roles Roles
}

// Policy is a set of identities with their credentials and roles. It never changes, so it
// is safe for concurrent use.
type Policy struct {
	tokens       map[TokenHash]bearer
	publicKeys   map[[sha256.Size]byte]*Identity
	spiffe, dns  map[string]*Identity
	uids         map[uint32]*Identity
	identityName map[string]bool
	credentials  []Credential
}

// Kind is a kind of credentials.
type Kind string

// The kinds of credentials.
const (
	Token       Kind = "token"
	Certificate Kind = "certificate"
	UID         Kind = "uid"
)

// Credential is one way to prove an identity, as in the policy.
type Credential struct {
	Kind     Kind
	Identity string
	Line     int
	Expires  time.Time         // of a token; zero: never
	Hash     [sha256.Size]byte // of a token or a public key; zero for others
}

// bearer is the identity and expiry of a token.
type bearer struct {
	hash     TokenHash
	identity *Identity
	expires  time.Time // zero: never
}

// document is the YAML form of a policy.
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

// uid is a user ID in decimal only. The YAML library would also accept a fraction and
// an octal number.
type uid uint32

// overflowUID is the uid that the kernel reports for users without a number in this
// process's user namespace (user_namespaces(7)). Many systems call it nobody. It may be
// any user.
const overflowUID = 65534

// UnmarshalYAML is part of [yaml.NodeUnmarshaler].
func (u *uid) UnmarshalYAML(node ast.Node) error {
	text := node.GetToken().Value
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || text != strconv.FormatUint(n, 10) {
		return &yamlfile.Error{Line: node.GetToken().Position.Line, Text: fmt.Sprintf("uids: must be plain numbers from 0 to %d", uint32(math.MaxUint32))}
	}
	*u = uid(n)
	return nil
}

// Parse reads a policy, a YAML document as in docs/policy.md. The error lists every
// problem with its line, and never includes what might be a token.
func Parse(data []byte) (*Policy, error) {
	file, err := yamlfile.Parse(data, MaxPolicyBytes)
	if err != nil {
		return nil, err
	}
	if file.Empty() {
		return nil, &yamlfile.Error{Text: "is empty: nobody could do anything"}
	}
	r := reader{file: file, policy: &Policy{
		tokens:       map[TokenHash]bearer{},
		publicKeys:   map[[sha256.Size]byte]*Identity{},
		spiffe:       map[string]*Identity{},
		dns:          map[string]*Identity{},
		uids:         map[uint32]*Identity{},
		identityName: map[string]bool{},
	}}
	var d document
	if r.errs, err = file.Decode(&d); err != nil {
		return nil, append(r.errs, yamlfile.All(err)...)
	}
	if len(d.Identities) == 0 {
		return nil, append(r.errs, &yamlfile.Error{Line: file.Line("$.identities"), Text: "identities: there are none: nobody could do anything"})
	}
	for i := range d.Identities {
		r.add(&d, i)
	}
	if r.errs != nil {
		return nil, r.errs
	}
	return r.policy, nil
}

// reader builds a policy from a file.
type reader struct {
	file   *yamlfile.File
	policy *Policy
	errs   yamlfile.Errors
}

// add adds the i-th identity.
func (r *reader) add(d *document, i int) {
	written, p := &d.Identities[i], r.policy
	at := fmt.Sprintf("$.identities[%d]", i)
	wrong := func(key, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if key != "" {
			text = key + ": " + text
		}
		r.errs = append(r.errs, &yamlfile.Error{
			Line: r.file.Line(strings.TrimSuffix(at+"."+key, ".")),
			Text: fmt.Sprintf("identity %q: %s", loggableName(written.Name), text),
		})
	}
	switch {
	case !plainName(written.Name):
		wrong("name", "must be 1 to 64 of letters, digits and -_:. and nothing else")
	case p.identityName[written.Name]:
		wrong("name", "is that of another identity")
	}
	if len(written.Roles) == 0 {
		wrong("roles", "there are none")
	}
	if len(written.Tokens)+len(written.Certificates)+len(written.UIDs) == 0 {
		wrong("", "has no tokens, certificates or uids")
	}
	p.identityName[written.Name] = true
	identity := &Identity{Name: written.Name}
	for i, name := range written.Roles {
		var role Roles
		if err := role.UnmarshalText([]byte(name)); err != nil {
			wrong(fmt.Sprintf("roles[%d]", i), "%v", err)
		}
		identity.Roles |= role
	}
	add := func(kind Kind, key string, c Credential, err error) {
		if err != nil {
			wrong(key, "%v", err)
			return
		}
		c.Kind, c.Identity, c.Line = kind, written.Name, r.file.Line(at+"."+key)
		p.credentials = append(p.credentials, c)
	}
	for i, t := range written.Tokens {
		b, err := p.addToken(identity, t.SHA256, t.Expires)
		add(Token, fmt.Sprintf("tokens[%d]", i), Credential{Expires: b.expires, Hash: b.hash}, err)
	}
	for i, c := range written.Certificates {
		hash, err := p.addCertificate(identity, c.SPIFFE, c.DNS, c.PublicKeySHA256)
		add(Certificate, fmt.Sprintf("certificates[%d]", i), Credential{Hash: hash}, err)
	}
	for i, uid := range written.UIDs {
		err := addTo(p.uids, uint32(uid), identity)
		if uid == overflowUID {
			err = fmt.Errorf("%d stands for every user that the user namespace of the service does not map", uid)
		}
		add(UID, fmt.Sprintf("uids[%d]", i), Credential{}, err)
	}
}

// loggableName returns the name of an identity for an error; a name that is not plain
// is omitted.
func loggableName(name string) string {
	if plainName(name) {
		return name
	}
	return ""
}

// plainName reports whether a name is safe in a log line.
func plainName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(c rune) bool {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune("-_.:", c):
			return false
		}
		return true
	})
}

var errTaken = errors.New("this or another identity has the same credential")

func addTo[K comparable](credentials map[K]*Identity, key K, identity *Identity) error {
	if credentials[key] != nil {
		return errTaken
	}
	credentials[key] = identity
	return nil
}

func (p *Policy) addToken(identity *Identity, sum string, expires *string) (b bearer, err error) {
	hash, err := parseHash(sum)
	if err != nil {
		return b, fmt.Errorf("sha256: %w", err)
	}
	if _, taken := p.tokens[hash]; taken {
		return b, errTaken
	}
	b = bearer{hash: hash, identity: identity}
	if expires != nil {
		if b.expires, err = time.Parse(time.RFC3339, *expires); err != nil {
			return b, errors.New("expires: must be a time like 2027-01-31T00:00:00Z (RFC 3339)")
		}
	}
	p.tokens[hash] = b
	return b, nil
}

// addCertificate returns the hash of a public key; zero for other certificates.
func (p *Policy) addCertificate(identity *Identity, spiffe, dns, publicKey string) (hash [sha256.Size]byte, err error) {
	switch {
	case spiffe != "" && dns == "" && publicKey == "":
		if !isSPIFFE(spiffe) {
			return hash, errors.New("spiffe: must be an ID like spiffe://example.org/edge")
		}
		return hash, addTo(p.spiffe, spiffe, identity)
	case dns != "" && spiffe == "" && publicKey == "":
		if !isHostname(dns) {
			return hash, errors.New("dns: must be a host name, without wildcards")
		}
		return hash, addTo(p.dns, strings.ToLower(dns), identity)
	case publicKey != "" && spiffe == "" && dns == "":
		if hash, err = parseHash(publicKey); err != nil {
			return hash, fmt.Errorf("public_key_sha256: %w", err)
		}
		return hash, addTo(p.publicKeys, hash, identity)
	}
	return hash, errors.New("must have one of spiffe, dns and public_key_sha256")
}

// parseHash reads a SHA-256 in hex or standard base64. The error does not repeat the
// input, which may be the token itself.
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

// isSPIFFE reports whether s is a workload's SPIFFE ID (SPIFFE-ID, section 2): only a
// lower-case trust domain and a path.
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

// Identities returns the number of identities.
func (p *Policy) Identities() int { return len(p.identityName) }

// Credentials returns the credentials of all identities. They must not be changed.
func (p *Policy) Credentials() []Credential { return p.credentials }

// TokenExpiries returns, for each identity with expiring tokens, when the first one
// expires.
func (p *Policy) TokenExpiries() map[string]time.Time {
	first := map[string]time.Time{}
	for _, c := range p.credentials {
		if at, known := first[c.Identity]; !c.Expires.IsZero() && (!known || c.Expires.Before(at)) {
			first[c.Identity] = c.Expires
		}
	}
	return first
}

// ErrUnauthenticated is wrapped by every failure to authenticate. The reason is for the
// metrics and the audit log, not for the client.
var ErrUnauthenticated = errors.New("no valid credentials")

// Error is a failure to authenticate. It wraps [ErrUnauthenticated].
type Error struct {
	Reason   Reason
	Identity string // of expired credentials; else empty
}

func (e *Error) Error() string { return ErrUnauthenticated.Error() + ": " + e.Reason.String() }

// Unwrap returns ErrUnauthenticated.
func (e *Error) Unwrap() error { return ErrUnauthenticated }

// The failures are allocated once, so that a flood of wrong tokens allocates nothing.
var failures = [...]*Error{
	Missing: {Reason: Missing}, Malformed: {Reason: Malformed}, Unknown: {Reason: Unknown}, Ambiguous: {Reason: Ambiguous},
}

// Identify returns the identity of the request at time now, or an [Error].
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

// byToken looks up the token by its hash. The time of the lookup depends only on
// hashes, and a client cannot choose a hash without finding preimages of SHA-256, so
// the time reveals nothing about a token. The final comparison is in constant time
// anyway.
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
		return nil, &Error{Expired, b.identity.Name}
	}
	return b.identity, nil
}

// byCertificate looks up a verified certificate. A certificate of several identities is
// rejected: the service does not guess which one is meant.
func (p *Policy) byCertificate(cert *x509.Certificate, now time.Time) (*Identity, error) {
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
	case now.After(cert.NotAfter): // expired since the handshake
		if ambiguous || found == nil {
			return nil, &Error{Reason: Expired}
		}
		return nil, &Error{Expired, found.Name}
	case ambiguous:
		return nil, failures[Ambiguous]
	case found == nil:
		return nil, failures[Unknown]
	}
	return found, nil
}

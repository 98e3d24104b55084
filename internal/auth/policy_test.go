package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// hashOf returns a hash; each n has its own.
func hashOf(n byte) string { return fmt.Sprintf("%064x", n) }

// identity returns a policy of one identity with these members, indented.
func identity(name, more string) string {
	return "identities:\n  - name: " + name + "\n    roles: [observe]\n" + more
}

func TestParse(t *testing.T) {
	for name, test := range map[string]struct{ policy, wrong string }{
		"a line behind a CR":   {identity("a", "    #\r    uids: [0]"), "line 4: has a control character: U+000D"},
		"token in hex":         {identity("a", `    tokens: [{sha256: "`+hashOf(1)+`"}]`), ""},
		"token in base64":      {identity("a", `    tokens: [{sha256: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=}]`), ""},
		"several, one ends":    {identity("a", "    tokens:\n      - sha256: \""+hashOf(1)+"\"\n        expires: 2027-01-31T00:00:00Z\n      - sha256: \""+hashOf(2)+"\""), ""},
		"certificates":         {identity("a", "    certificates:\n      - spiffe: spiffe://example.org/ns/edge\n      - dns: edge.example.org\n      - public_key_sha256: \""+hashOf(1)+"\""), ""},
		"uids":                 {identity("a", "    uids: [0, 1000, 4294967294]"), ""},
		"JSON":                 {`{"identities": [{"name": "a", "roles": ["admin"], "uids": [0]}]}`, ""},
		"comments":             {"# who\n---\n" + identity("a", "    uids: [0] # root"), ""},
		"a key and a token":    {identity("a", `    tokens: [{sha256: "`+hashOf(1)+`"}]`+"\n    certificates: [{public_key_sha256: \""+hashOf(1)+"\"}]"), ""},
		"nothing":              {"", "is empty: nobody"},
		"a comment":            {"# nothing\n", "is empty: nobody"},
		"two documents":        {identity("a", "    uids: [0]") + "\n---\n" + identity("b", "    uids: [1]"), "a second document begins"},
		"no identities":        {"identities: []", "line 1: identities: there are none"},
		"a list":               {"- a", "mapping"},
		"unknown member":       {"roles: {}\n" + identity("a", "    uids: [0]"), `line 1: unknown key "roles"`},
		"unknown deep":         {identity("a", "    uids: [0]\n    groups: [0]"), `line 5: unknown key "groups"`},
		"unknown, and more":    {identity("a", "    uids: [0]\n    groups: [0]") + "\n  - {nam: b, roles: [root], uids: [1]}", `line 5: unknown key "groups"; line 6: unknown key "nam"; did you mean name?; line 6: identity "": name: must be`},
		"unknown, and a role":  {"identities: [{name: a, roles: [root], uids: [0], x: 1}]", `unknown role "root"`},
		"member twice":         {identity("a", "    uids: [0]\n    uids: [1]"), `line 5: "uids" is given twice, first in line 4`},
		"empty identity":       {"identities:\n  -\n", "line 2: has an entry without a value"},
		"empty mapping":        {"identities:\n  - {}\n", `line 2: identity "": name: must be`},
		"no name":              {"identities: [{roles: [admin], uids: [0]}]", "name: must be"},
		"a name for the log":   {`identities: [{name: "a\nb", roles: [admin], uids: [0]}]`, "name: must be"},
		"same names":           {identity("a", "    uids: [0]") + "\n  - {name: a, roles: [admin], uids: [1]}", `line 5: identity "a": name: is that`},
		"no roles":             {"identities: [{name: a, uids: [0]}]", "roles: there are none"},
		"unknown role":         {"identities: [{name: a, roles: [root], uids: [0]}]", `unknown role "root"`},
		"anyone is no role":    {"identities: [{name: a, roles: [anyone], uids: [0]}]", `unknown role "anyone"`},
		"no credentials":       {identity("a", ""), "has no tokens"},
		"the token itself":     {identity("a", "    tokens: [{sha256: sessapi_"+strings.Repeat("a", 52)+"}]"), `line 4: identity "a": tokens[0]: sha256: must be`},
		"a short hash":         {identity("a", "    tokens: [{sha256: abcd}]"), `line 4: identity "a": tokens[0]: sha256: must be`},
		"a number":             {identity("a", "    tokens: [{sha256: 12}]"), `line 4: identity "a": tokens[0]: sha256: must be`},
		"no hash":              {identity("a", "    tokens: [{}]"), `line 4: identity "a": tokens[0]: sha256: must be`},
		"expires some day":     {identity("a", `    tokens: [{sha256: "`+hashOf(1)+`", expires: 2027-01-31}]`), "RFC 3339"},
		"same token":           {identity("a", `    tokens: [{sha256: "`+hashOf(1)+`"}, {sha256: "`+hashOf(1)+`"}]`), "tokens[1]: this or another identity has the same credential"},
		"another's token":      {identity("a", `    tokens: [{sha256: "`+hashOf(0xab)+`"}]`) + "\n  - {name: b, roles: [admin], tokens: [{sha256: \"" + strings.ToUpper(hashOf(0xab)) + "\"}]}", `line 5: identity "b": tokens[0]: this or another identity has the same credential`},
		"another's uid":        {identity("a", "    uids: [5]") + "\n  - {name: b, roles: [admin], uids: [5]}", `line 5: identity "b": uids[0]: this or another identity has the same credential`},
		"another's DNS name":   {identity("a", "    certificates: [{dns: A.example}]") + "\n  - {name: b, roles: [admin], certificates: [{dns: a.example}]}", "certificates[0]: this or another identity has the same credential"},
		"two in one":           {identity("a", "    certificates: [{dns: a.example, spiffe: \"spiffe://a/b\"}]"), "must have one of"},
		"empty certificate":    {identity("a", "    certificates: [{}]"), "must have one of"},
		"wildcard":             {identity("a", "    certificates: [{dns: \"*.example\"}]"), "without wildcards"},
		"SPIFFE without path":  {identity("a", "    certificates: [{spiffe: \"spiffe://example.org\"}]"), "spiffe: must be"},
		"SPIFFE with a query":  {identity("a", "    certificates: [{spiffe: \"spiffe://example.org/a?b\"}]"), "spiffe: must be"},
		"SPIFFE in upper case": {identity("a", "    certificates: [{spiffe: \"spiffe://Example.org/a\"}]"), "spiffe: must be"},
		"https":                {identity("a", "    certificates: [{spiffe: \"https://example.org/a\"}]"), "spiffe: must be"},
		"negative uid":         {identity("a", "    uids: [-1]"), "line 4: uids: must be plain"},
		"large uid":            {identity("a", "    uids: [4294967296]"), "line 4: uids: must be plain"},
		"fraction as uid":      {identity("a", "    uids: [1.5]"), "line 4: has a number that is not whole"},
		"exponent as uid":      {identity("a", "    uids: [1e3]"), "line 4: uids: must be plain"},
		"octal uid":            {identity("a", "    uids: [010]"), "line 4: has a number that is not decimal"},
		"hex uid":              {identity("a", "    uids: [0x10]"), "line 4: has a number that is not decimal"},
		"uid with a sign":      {identity("a", "    uids: [+5]"), "line 4: uids: must be plain"},
		"uid with a gap":       {identity("a", "    uids: [1_000]"), "line 4: uids: must be plain"},
		"uid as a list":        {identity("a", "    uids: [[0]]"), "line 4: uids: must be plain"},
		"uid as text":          {identity("a", "    uids: [root]"), "line 4: uids: must be plain"},
		"null as uid":          {identity("a", "    uids: [~]"), "line 4: has an entry without a value"},
		"empty uid":            {identity("a", "    uids:\n      - 1\n      -\n"), "line 6: has an entry without a value"},
		"null beside a uid":    {identity("a", "    uids: [0]\n    tokens: null"), "line 5: tokens: has no value"},
		"user of no namespace": {identity("a", "    uids: [65534]"), "uids[0]: 65534 stands for every user"},
		"null expires":         {identity("a", `    tokens: [{sha256: "`+hashOf(1)+`", expires: ~}]`), "line 4: expires: has no value"},
		"empty expires":        {identity("a", `    tokens: [{sha256: "`+hashOf(1)+`", expires: ""}]`), "RFC 3339"},
		"nothing as expires":   {identity("a", "    tokens:\n      - sha256: \""+hashOf(1)+"\"\n        expires:\n"), "line 6: expires: has no value"},
		"expires alone":        {identity("a", `    tokens: [{sha256: "`+hashOf(1)+`", expires}]`), "line 4: expires: has no value"},
		"an anchor":            {identity("a", "    uids: &x [0]"), "line 4"},
		"an alias":             {"identities: &a\n  - *a\n", "line 1"},
		"a merge":              {identity("a", "    <<: {uids: [0]}"), "line 4"},
		"a tag":                {identity("a", "    uids: !!seq [0]"), "line 4"},
		"deep":                 {"identities: " + strings.Repeat("[", 100), "nested too deep"},
		"a long line":          {"# " + strings.Repeat("a", 1<<10), "line 1: is longer"},
		"deep lists":           {"identities:\n  - - a", "line 2: a list begins right in a list"},
		"too large":            {strings.Repeat("#\n", MaxPolicyBytes), "larger than"},
		"no YAML":              {"identities: [\x00", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Parse([]byte(test.policy))
			switch {
			case name == "no YAML":
				if err == nil {
					t.Error("it was taken")
				}
			case test.wrong == "" && err != nil:
				t.Errorf("it was refused: %v", err)
			case test.wrong == "" && p.Identities() != 1:
				t.Errorf("%d identities", p.Identities())
			case test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong) || strings.Contains(err.Error(), "\n")):
				t.Errorf("error %q, want one line with %q", err, test.wrong)
			case err != nil && strings.Contains(err.Error(), "sessapi_aaa"):
				t.Errorf("the error has the token in it: %v", err)
			}
		})
	}
}

// All problems of identities are reported together.
func TestParseAll(t *testing.T) {
	_, err := Parse([]byte("identities:\n  - name: a\n    roles: [root]\n    uids: [65534]\n  - name: b\n    roles: [admin]\n"))
	const want = `line 3: identity "a": roles[0]: unknown role "root"; the roles are session-read, session-write, key-publish, key-consume, observe, admin; ` +
		`line 4: identity "a": uids[0]: 65534 stands for every user that the user namespace of the service does not map; ` +
		`line 5: identity "b": has no tokens, certificates or uids`
	if err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}

// Nested or repeated input, on one line or on many, is rejected without further cost.
func TestParseBounds(t *testing.T) {
	const lineLimit = 1 << 10
	for _, part := range []string{"[", "{", "- ", "? ", "a: ", "&a ", "*a ", "!!a ", "'", "\"", "|", "<<: ", ", ", "%", "#"} {
		line := strings.Repeat(part, lineLimit/len(part)-1) + "\n"
		for _, lines := range []string{line, part + "\n", " " + part + "\n"} {
			start := time.Now()
			if _, err := Parse([]byte(strings.Repeat(lines, MaxPolicyBytes/8/len(lines)))); err == nil {
				t.Errorf("%q was taken", part)
			}
			t.Logf("%.8q of %d bytes a line took %v", part, len(lines), time.Since(start))
		}
		if _, err := Parse([]byte(strings.Repeat(part, lineLimit))); err == nil {
			t.Errorf("a long line of %q was taken", part)
		}
	}
}

// The policy in docs/policy.md is valid.
func TestDocumentedPolicy(t *testing.T) {
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	policy, _, _ := strings.Cut(rest, "```")
	p, err := Parse([]byte(policy))
	if err != nil || p.Identities() < 4 {
		t.Errorf("%v", err)
	}
	for _, role := range roleNames {
		if !strings.Contains(string(page), "| `"+role+"` |") {
			t.Errorf("the role %s is not described", role)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			return
		}
		if len(p.identityName) == 0 || len(p.tokens)+len(p.publicKeys)+len(p.spiffe)+len(p.dns)+len(p.uids) < len(p.identityName) {
			t.Errorf("%d identities with less credentials", len(p.identityName))
		}
		check := func(i *Identity) {
			if !p.identityName[i.Name] || i.Roles == 0 || i.Roles&Anyone != 0 {
				t.Errorf("identity %+v", i)
			}
		}
		for _, b := range p.tokens {
			check(b.identity)
		}
		for _, credentials := range []map[string]*Identity{p.spiffe, p.dns} {
			for key, i := range credentials {
				if check(i); key == "" {
					t.Error("an empty credential")
				}
			}
		}
	})
}

// policyWith returns a policy whose identity a has a token.
func policyWith(tb testing.TB, more string) (p *Policy, token string) {
	tb.Helper()
	token, hash := NewToken()
	p, err := Parse(fmt.Appendf(nil, "identities:\n  - name: a\n    roles: [session-read, observe]\n    tokens: [{sha256: \"%x\"%s}]\n", hash, more))
	if err != nil {
		tb.Fatal(err)
	}
	return p, token
}

func bearing(values ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["Authorization"] = values
	return r
}

func wantReason(t *testing.T, what string, err error, want Reason) {
	t.Helper()
	failure, ok := errors.AsType[*Error](err)
	if !ok || failure.Reason != want || !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestTokens(t *testing.T) {
	end := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	p, token := policyWith(t, ", expires: 2027-01-31T00:00:00Z")
	before := end.Add(-time.Nanosecond)
	for _, header := range []string{"Bearer " + token, "bearer " + token} {
		got, err := p.Identify(bearing(header), before)
		if err != nil || got.Name != "a" || got.Roles != SessionRead|Observe {
			t.Errorf("%v %v", got, err)
		}
	}
	other, _ := NewToken()
	for _, test := range []struct {
		header []string
		now    time.Time
		want   Reason
	}{
		{[]string{"Bearer " + token}, end, Expired},
		{[]string{"Bearer " + other}, before, Unknown},
		{[]string{"Bearer " + strings.ToUpper(token)}, before, Unknown},
		{[]string{"Bearer  " + token}, before, Malformed},
		{[]string{"Bearer " + token + "a"}, before, Malformed},
		{[]string{"Bearer " + token[:len(token)-1]}, before, Malformed},
		{[]string{"Bearer"}, before, Malformed},
		{[]string{""}, before, Malformed},
		{[]string{"Basic " + token}, before, Malformed},
		{[]string{token}, before, Malformed},
		{[]string{"Bearer " + token, "Bearer " + token}, before, Malformed},
		{nil, before, Missing},
	} {
		_, err := p.Identify(bearing(test.header...), test.now)
		wantReason(t, fmt.Sprint(len(test.header), test.want), err, test.want)
		if err != nil && strings.Contains(err.Error(), token) {
			t.Error("the error has the token in it")
		}
	}
}

// Secret scanners find tokens by this pattern, and no two tokens are equal.
func TestNewToken(t *testing.T) {
	a, hash := NewToken()
	b, other := NewToken()
	if a == b || hash == other || len(a) != tokenSize || !strings.HasPrefix(a, "sessapi_") {
		t.Errorf("%d characters", len(a))
	}
	if got, ok := hashToken(a); !ok || got != hash {
		t.Error("the hash is that of something else")
	}
}

func TestCertificates(t *testing.T) {
	p, err := Parse([]byte(`
identities:
  - name: workload
    roles: [session-read]
    certificates: [{spiffe: "spiffe://example.org/edge"}]
  - name: host
    roles: [session-read]
    certificates: [{dns: Edge.example.org}]
  - name: key
    roles: [session-read]
    certificates: [{public_key_sha256: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}] # of foo
`))
	if err != nil {
		t.Fatal(err)
	}
	// svid returns a certificate with URIs, created and parsed so that they are as a CA
	// wrote them.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	svid := func(dns []string, uris ...string) x509.Certificate {
		t.Helper()
		var san cryptobyte.Builder
		san.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for tag, names := range map[asn1.Tag][]string{2: dns, 6: uris} {
				for _, name := range names {
					b.AddASN1(tag.ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
				}
			}
		})
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber:    big.NewInt(1),
			ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 17}, Value: san.BytesOrPanic()}},
		}, &x509.Certificate{}, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return *cert
	}
	for _, test := range []struct {
		cert x509.Certificate
		name string
		want Reason
	}{
		{cert: svid(nil, "spiffe://example.org/edge"), name: "workload"},
		{cert: x509.Certificate{DNSNames: []string{"other.example.org", "eDGE.example.org"}}, name: "host"},
		{cert: x509.Certificate{RawSubjectPublicKeyInfo: []byte("foo")}, name: "key"},
		{cert: svid(nil, "spiffe://example.org/edge", "spiffe://example.org/b"), want: Unknown},
		{cert: svid(nil, "spiffe://example.org/edge/b"), want: Unknown},
		{cert: svid(nil, "SPIFFE://example.org/edge"), want: Unknown},
		{cert: svid(nil, "spiffe://example.org/edge#"), want: Unknown},
		{cert: svid(nil, "spiffe://example.org/edge?"), want: Unknown},
		{cert: svid(nil, "spiffe://example.org/%65dge"), want: Unknown},
		{cert: x509.Certificate{DNSNames: []string{"*.example.org"}}, want: Unknown},
		{cert: x509.Certificate{RawSubjectPublicKeyInfo: []byte("foo"), DNSNames: []string{"edge.example.org"}}, want: Ambiguous},
		{cert: svid([]string{"edge.example.org"}, "spiffe://example.org/edge"), want: Ambiguous},
		{cert: x509.Certificate{}, want: Unknown},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		test.cert.NotAfter = time.Now().Add(time.Hour)
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{&test.cert}}
		_, err := p.Identify(r, time.Now())
		wantReason(t, "not verified", err, Missing)
		r.TLS.VerifiedChains = [][]*x509.Certificate{{&test.cert}}
		got, err := p.Identify(r, time.Now())
		if test.name == "" {
			wantReason(t, "certificate", err, test.want)
		} else if err != nil || got.Name != test.name {
			t.Errorf("%v %v, want %s", got, err, test.name)
		}
		_, err = p.Identify(r, time.Now().Add(2*time.Hour)) // on a long-lived connection
		wantReason(t, "expired certificate", err, Expired)
		// A token is checked on its own.
		r.Header.Set("Authorization", "Bearer x")
		_, err = p.Identify(r, time.Now())
		wantReason(t, "a wrong token beside it", err, Malformed)
	}
}

func TestRoles(t *testing.T) {
	for _, test := range []struct {
		has, anyOf Roles
		want       bool
	}{
		{SessionRead, SessionRead | Observe, true},
		{SessionRead, SessionWrite, false},
		{Admin, KeyConsume, true},
		{SessionRead | KeyConsume, 0, false},
		{Admin, 0, true},
		{0, 0, false},
	} {
		if got := test.has.Permit(test.anyOf); got != test.want {
			t.Errorf("%v for %v: %v", test.has, test.anyOf, got)
		}
	}
}

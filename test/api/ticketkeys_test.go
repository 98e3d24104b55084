package api_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/sessapi/sessapi/internal/api"
)

// record is a ticket key as Traffic Server's key file has it: name, HMAC
// secret, AES key.
func record() []byte {
	b := make([]byte, 48)
	_, _ = rand.Read(b)
	return b
}

func describe(tb testing.TB, a answer) api.TicketKeys {
	tb.Helper()
	d := decode[api.TicketKeys](tb, a.want(tb, 200))
	a.wantHeader(tb, "ETag", `"`+strconv.FormatUint(d.Generation, 10)+`"`).wantHeader(tb, "Cache-Control", "no-store")
	return d
}

// roles writes a description as names and roles, for comparing.
func roles(d api.TicketKeys) string {
	var b strings.Builder
	for _, k := range d.Keys {
		b.WriteString(k.Name[:8] + "=" + string(k.Role) + " ")
	}
	return strings.TrimSpace(b.String())
}

func short(record []byte) string { return hex.EncodeToString(record[:4]) }

func TestTicketKeysGenerated(t *testing.T) {
	t.Parallel()
	s := startService(t)
	d := describe(t, s.get("/ticket-keys", "*/*"))
	if d.Source != api.Generated || len(d.Keys) != 3 || d.Keys[0].Role != api.Current || d.Keys[1].Role != api.Next || d.Keys[2].Role != api.Previous {
		t.Errorf("a fresh service has %+v", d)
	}
	for _, k := range d.Keys {
		if k.Bits != api.N256 || k.CreatedAt.IsZero() || (k.Role == api.Current) != (k.ActivatedAt != nil) {
			t.Errorf("a fresh service has %+v", k)
		}
	}
	if other := describe(t, startService(t).get("/ticket-keys", "*/*")); other.Keys[0].Fingerprint == d.Keys[0].Fingerprint {
		t.Error("two services made the same key")
	}
	raw := s.get("/ticket-keys?format=ats", "*/*").want(t, 200).wantHeader(t, "Content-Type", typeBytes)
	if len(raw.body) != 144 || hex.EncodeToString(raw.body[:16]) != d.Keys[0].Name || hex.EncodeToString(raw.body[48:64]) != d.Keys[1].Name {
		t.Errorf("format=ats sends %d bytes", len(raw.body))
	}
}

// What a format gives out can be pushed back and changes nothing, also when the
// format has smaller keys and no word for the roles.
func TestTicketKeysRoundTrip(t *testing.T) {
	t.Parallel()
	s := startService(t)
	before := describe(t, s.get("/ticket-keys", typeJSON))
	given := s.get("/ticket-keys?format=ats", typeBytes).want(t, 200)
	if after := describe(t, s.post("/ticket-keys", typeBytes, given.body)); after.Generation != before.Generation || roles(after) != roles(before) {
		t.Errorf("%s became %s", roles(before), roles(after))
	}
	if part := describe(t, s.post("/ticket-keys", typeBytes, given.body[:48])); part.Generation != before.Generation+1 || part.Keys[0].Fingerprint != before.Keys[0].Fingerprint {
		t.Errorf("a part of it became %+v", part)
	}
}

func TestTicketKeysReplace(t *testing.T) {
	t.Parallel()
	s := startService(t)
	first := describe(t, s.get("/ticket-keys", typeJSON))
	a, b, c := record(), record(), record()

	pushed := describe(t, s.post("/ticket-keys", typeBytes, append(bytes.Clone(a), b...)))
	if want := short(a) + "=current " + short(b) + "=previous"; roles(pushed) != want || pushed.Source != api.API {
		t.Errorf("got %s from %s, want %s", roles(pushed), pushed.Source, want)
	}
	if pushed.Generation != first.Generation+1 {
		t.Errorf("generation went from %d to %d", first.Generation, pushed.Generation)
	}
	raw := s.get("/ticket-keys?format=ats", typeBytes).want(t, 200)
	if !bytes.Equal(raw.body, append(bytes.Clone(a), b...)) {
		t.Error("format=ats does not give back what was pushed")
	}

	// The same set again changes nothing.
	again := describe(t, s.post("/ticket-keys?format=ats", typeBytes, append(bytes.Clone(a), b...)))
	if again.Generation != pushed.Generation || !again.UpdatedAt.Equal(pushed.UpdatedAt) {
		t.Errorf("the same set moved the generation to %d", again.Generation)
	}

	// A key that stays keeps its history; JSON can say which is next.
	body, err := json.Marshal(map[string]any{
		"keys": []any{material(c), material(a)},
		"next": material(b),
	})
	if err != nil {
		t.Fatal(err)
	}
	viaJSON := describe(t, s.post("/ticket-keys", typeJSON, body))
	if want := short(c) + "=current " + short(b) + "=next " + short(a) + "=previous"; roles(viaJSON) != want {
		t.Errorf("got %s, want %s", roles(viaJSON), want)
	}
	for _, k := range viaJSON.Keys {
		if k.Name == hex.EncodeToString(a[:16]) && (!k.CreatedAt.Equal(pushed.Keys[0].CreatedAt) || k.Fingerprint != pushed.Keys[0].Fingerprint) {
			t.Errorf("the key that stayed is now %+v", k)
		}
	}
	raw = s.get("/ticket-keys?format=ats", typeBytes).want(t, 200)
	if want := bytes.Join([][]byte{c, b, a}, nil); !bytes.Equal(raw.body, want) {
		t.Error("format=ats does not send current, next, previous")
	}
}

// material is a record as JSON has it.
func material(record []byte) map[string]any {
	return map[string]any{"name": hex.EncodeToString(record[:16]), "hmac_secret": record[16:32], "aes_key": record[32:48]}
}

func TestTicketKeysConditions(t *testing.T) {
	t.Parallel()
	s := startService(t)
	first := s.get("/ticket-keys", typeJSON).want(t, 200)
	stale := first.Header.Get("ETag")
	s.get("/ticket-keys", typeJSON, "If-None-Match", stale).want(t, 304).wantHeader(t, "ETag", stale)
	s.get("/ticket-keys?format=ats", "*/*", "If-None-Match", stale).want(t, 304).wantHeader(t, "ETag", stale)

	current := s.post("/ticket-keys", typeBytes, record(), "If-Match", stale).want(t, 200).Header.Get("ETag")
	s.get("/ticket-keys", typeJSON, "If-None-Match", stale).want(t, 200)

	name := decode[api.TicketKeys](t, s.get("/ticket-keys", typeJSON)).Keys[0].Name
	for _, refused := range []answer{
		s.post("/ticket-keys", typeBytes, record(), "If-Match", stale),
		s.post("/ticket-keys/rotate", "", nil, "If-Match", stale),
		s.request(http.MethodDelete, "/ticket-keys/"+name, nil, "If-Match", stale),
	} {
		refused.wantProblem(t, 412, api.ProblemCodePreconditionFailed)
	}
	s.get("/ticket-keys", typeJSON).wantHeader(t, "ETag", current)
	s.post("/ticket-keys/rotate", "", nil, "If-Match", current).want(t, 200)
	s.post("/ticket-keys/rotate", "", nil, "If-Match", "*").want(t, 200)
	s.post("/ticket-keys/rotate", "", nil, "If-Match", "7").wantProblem(t, 400, api.ProblemCodeInvalidRequest)
}

func TestTicketKeysRotateAndRevoke(t *testing.T) {
	t.Parallel()
	s := startService(t)
	before := describe(t, s.get("/ticket-keys", typeJSON))
	after := describe(t, s.post("/ticket-keys/rotate", "", nil))
	if after.Keys[0].Name != before.Keys[1].Name || after.Keys[2].Name != before.Keys[0].Name || after.Source != api.Rotation {
		t.Errorf("rotation made %s of %s", roles(after), roles(before))
	}
	if after.Keys[0].ActivatedAt == nil || after.Keys[1].Role != api.Next || after.Keys[1].Name == before.Keys[1].Name {
		t.Errorf("rotation made %+v", after.Keys)
	}
	for range 5 {
		after = describe(t, s.post("/ticket-keys/rotate", "", nil))
	}
	if len(after.Keys) != 3+1+5 { // all that live tickets may be sealed with
		t.Errorf("%d keys are kept", len(after.Keys))
	}

	revoked := describe(t, s.request(http.MethodDelete, "/ticket-keys/"+strings.ToUpper(after.Keys[0].Name), nil))
	if revoked.Keys[0].Name != after.Keys[1].Name || len(revoked.Keys) != len(after.Keys) {
		t.Errorf("revoking current made %s of %s", roles(revoked), roles(after))
	}
	s.request(http.MethodDelete, "/ticket-keys/"+after.Keys[0].Name, nil).wantProblem(t, 404, api.ProblemCodeKeyNotFound)
	for _, bad := range []string{"abc", strings.Repeat("0", 31), strings.Repeat("0", 34), strings.Repeat("g", 32)} {
		s.request(http.MethodDelete, "/ticket-keys/"+bad, nil).wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	}

	// A pushed set has no next: a step hands one out, the step after it
	// activates that.
	a := record()
	s.post("/ticket-keys", typeBytes, a).want(t, 200)
	one := describe(t, s.post("/ticket-keys/rotate", "", nil))
	if len(one.Keys) != 2 || one.Keys[0].Name != hex.EncodeToString(a[:16]) || one.Keys[1].Role != api.Next {
		t.Errorf("the first step made %s", roles(one))
	}
	two := describe(t, s.post("/ticket-keys/rotate", "", nil))
	if two.Keys[0].Name != one.Keys[1].Name {
		t.Errorf("the second step made %s of %s", roles(two), roles(one))
	}
}

func TestTicketKeysRefused(t *testing.T) {
	t.Parallel()
	s := startService(t)
	good := append(record(), record()...)
	before := describe(t, s.post("/ticket-keys", typeBytes, good))

	weak := func(change func(r []byte)) []byte {
		r := record()
		change(r)
		return r
	}
	many := func(n int) (set []byte) {
		for range n {
			set = append(set, record()...)
		}
		return set
	}
	twice := record()
	jsonSet := func(change func(first map[string]any)) []byte {
		first := material(record())
		change(first)
		body, _ := json.Marshal(map[string]any{"keys": []any{first, material(record())}})
		return body
	}
	for _, test := range []struct {
		name, contentType string
		body              []byte
		status            int
		field             string
	}{
		{"0 bytes", typeBytes, nil, 422, "keys"},
		{"47 bytes", typeBytes, many(1)[:47], 422, "keys[0]"},
		{"49 bytes", typeBytes, append(many(1), 1), 422, "keys[1]"},
		{"95 bytes", typeBytes, many(2)[:95], 422, "keys[1]"},
		{"97 bytes", typeBytes, append(many(2), 1), 422, "keys[2]"},
		{"65 keys", typeBytes, many(65), 422, "keys"},
		{"2000 keys", typeBytes, many(2000), 422, "keys"},
		{"duplicate name", typeBytes, append(bytes.Clone(twice), weak(func(r []byte) { copy(r, twice[:16]) })...), 422, "keys[1].name"},
		{"zero HMAC secret", typeBytes, weak(func(r []byte) { clear(r[16:32]) }), 422, "keys[0].hmac_secret"},
		{"zero AES key", typeBytes, weak(func(r []byte) { clear(r[32:48]) }), 422, "keys[0].aes_key"},
		{"repeated byte", typeBytes, weak(func(r []byte) { copy(r[32:48], bytes.Repeat([]byte{7}, 16)) }), 422, "keys[0].aes_key"},
		{"HMAC secret is the AES key", typeBytes, weak(func(r []byte) { copy(r[32:48], r[16:32]) }), 422, "keys[0]"},
		{"printable text", typeBytes, []byte("MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAtest"[:48]), 422, "keys[0].hmac_secret"},
		{"short AES key", typeJSON, jsonSet(func(k map[string]any) { k["aes_key"] = make([]byte, 15) }), 422, "keys[0].aes_key"},
		{"AES key and HMAC secret of two sizes", typeJSON, jsonSet(func(k map[string]any) { k["aes_key"] = many(1)[:32] }), 422, ""},
		{"short name", typeJSON, jsonSet(func(k map[string]any) { k["name"] = "00" }), 422, "keys[0].name"},
		{"name is no hex", typeJSON, jsonSet(func(k map[string]any) { k["name"] = strings.Repeat("z", 32) }), 422, "keys[0].name"},
		{"broken base64", typeJSON, jsonSet(func(k map[string]any) { k["hmac_secret"] = "*" }), 422, "keys[0].hmac_secret"},
		{"base64 with line ends", typeJSON, jsonSet(func(k map[string]any) { k["aes_key"] = "AAECAwQF\nBgcICQoLDA0ODw==\n" }), 422, "keys[0].aes_key"},
		{"an active name with other secrets", typeBytes, append(bytes.Clone(good[:47]), good[47]^1), 422, "keys[0].name"},
		{"hex text", typeBytes, hex.AppendEncode(nil, many(1)), 422, "keys"},
		{"a newline at the end", typeBytes, append(many(1), '\n'), 422, "keys"},
		{"no keys", typeJSON, []byte(`{"keys":[]}`), 422, "keys"},
		{"second key's broken base64", typeJSON, []byte(`{"keys":[{"name":"","hmac_secret":"","aes_key":""},{"name":"","hmac_secret":"","aes_key":"*"}]}`), 422, "keys[1].aes_key"},
		{"members in another case", typeJSON, []byte(`{"KEYS":[]}`), 400, ""},
		{"unknown member", typeJSON, jsonSet(func(k map[string]any) { k["hmac"] = "" }), 400, ""},
		{"keys missing", typeJSON, []byte(`{}`), 400, ""},
		{"wrong type", typeJSON, []byte(`{"keys":"x"}`), 400, ""},
		{"trailing data", typeJSON, append(jsonSet(func(map[string]any) {}), 'x'), 400, ""},
		{"not taken", "text/plain", good, 415, ""},
	} {
		got := s.post("/ticket-keys", test.contentType, test.body)
		switch test.status {
		case 422:
			p := got.wantProblem(t, 422, api.ProblemCodeInvalidTicketKeys)
			if p.Errors == nil || len(*p.Errors) == 0 || test.field != "" && (*p.Errors)[0].Field != test.field || (*p.Errors)[0].Reason == "" {
				t.Errorf("%s: errors are %+v", test.name, p.Errors)
			}
		case 415:
			got.wantProblem(t, 415, api.ProblemCodeUnsupportedMediaType)
			got.wantHeader(t, "Accept", "application/octet-stream, application/json")
		default:
			got.wantProblem(t, test.status, api.ProblemCodeInvalidRequest)
		}
		if now := describe(t, s.get("/ticket-keys", typeJSON)); now.Generation != before.Generation || roles(now) != roles(before) {
			t.Fatalf("%s: changed the active set", test.name)
		}
	}
	if raw := s.get("/ticket-keys?format=ats", typeBytes); !bytes.Equal(raw.body, good) {
		t.Error("the active set has changed")
	}
	s.get("/ticket-keys?format=pkcs12", typeBytes).wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	s.post("/ticket-keys?format=pkcs12", typeBytes, good).wantProblem(t, 400, api.ProblemCodeInvalidRequest)
	s.get("/ticket-keys?format=ats", typeJSON).wantProblem(t, 406, api.ProblemCodeNotAcceptable)
	s.get("/ticket-keys", typeBytes).wantProblem(t, 406, api.ProblemCodeNotAcceptable)
}

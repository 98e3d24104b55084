package keys

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// testKey returns the same key for the same number and size of secret.
func testKey(n, size int) Key {
	part := func(what string) []byte {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", what, n))
		return sum[:]
	}
	return NewKey(part("name")[:NameSize], part("hmac")[:size], part("aes")[:size])
}

// testSet returns a set of the keys of these numbers, the first of them current,
// without a next key.
func testSet(size int, numbers ...int) Set {
	var set Set
	for _, n := range numbers {
		set.Keys = append(set.Keys, testKey(n, size))
	}
	return set
}

func withNext(set Set, next Key) Set {
	set.Next = &next
	return set
}

func TestParseName(t *testing.T) {
	const text = "000102030405060708090a0b0c0d0eff"
	for _, s := range []string{text, strings.ToUpper(text)} {
		n, err := ParseName(s)
		if err != nil || n.String() != text || n[15] != 0xff {
			t.Errorf("ParseName(%q) = %v, %v", s, n, err)
		}
	}
	for _, s := range []string{"", text[:31], text + "0", text[:30], "g" + text[1:], text + text} {
		if _, err := ParseName(s); !errors.Is(err, ErrInvalidName) {
			t.Errorf("ParseName(%q): %v", s, err)
		}
	}
}

func TestKeyCopies(t *testing.T) {
	name, hmacSecret, aesKey := bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 32), bytes.Repeat([]byte{3}, 32)
	k := NewKey(name, hmacSecret, aesKey)
	before := k.clone()
	clear(name)
	clear(hmacSecret)
	clear(aesKey)
	clear(k.AppendHMACSecret(nil))
	clear(k.AppendAESKey(nil))
	if !k.Equal(before) {
		t.Error("the key shares memory with its caller")
	}
	if got := k.AppendAESKey(k.AppendHMACSecret([]byte{9})); !bytes.Equal(got, slicesOf(9, 1, 2, 32, 3, 32)) {
		t.Errorf("appended %x", got)
	}
	if k.Name() != Name(bytes.Repeat([]byte{1}, 16)) || k.Bits() != 256 {
		t.Errorf("name %v, %d bits", k.Name(), k.Bits())
	}
}

// slicesOf returns, for each pair, the byte as often as the second says.
func slicesOf(pairs ...int) []byte {
	var b []byte
	for i := 0; i < len(pairs); i += 2 {
		b = append(b, bytes.Repeat([]byte{byte(pairs[i])}, pairs[i+1])...)
	}
	return b
}

func TestKeyEqual(t *testing.T) {
	k := NewKey([]byte("name"), []byte("hmac"), []byte("aes"))
	for _, test := range []struct {
		other Key
		want  bool
	}{
		{NewKey([]byte("name"), []byte("hmac"), []byte("aes")), true},
		{NewKey([]byte("nam"), []byte("hmac"), []byte("aes")), false},
		{NewKey([]byte("nAme"), []byte("hmac"), []byte("aes")), false},
		{NewKey([]byte("name"), []byte("hmAc"), []byte("aes")), false},
		{NewKey([]byte("name"), []byte("hmac"), []byte("aEs")), false},
		{NewKey([]byte("name"), []byte("hma"), []byte("caes")), false},
		{Key{}, false},
	} {
		if got := k.Equal(test.other); got != test.want {
			t.Errorf("Equal = %v for %q", got, test.other.view())
		}
	}
	if (Key{}).Bits() != 0 || (Key{}).Name() != (Name{}) || !(Key{}).Equal(NewKey(nil, nil, nil)) {
		t.Error("the zero key is not an empty one")
	}
}

// The fingerprint was computed by
//
//	(printf 'sessapi ticket key fingerprint v1'
//	 printf 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f | xxd -r -p
//	) | openssl dgst -sha256 | grep -o '[0-9a-f]\{64\}' | cut -c 1-32
func TestFingerprint(t *testing.T) {
	record := make([]byte, 48)
	for i := range record {
		record[i] = byte(i)
	}
	k := NewKey(record[:16], record[16:32], record[32:])
	if got := k.Fingerprint(); got != "c57097a0c3809ce8e2391e7ae318bf19" {
		t.Errorf("fingerprint %s", got)
	}
	if testKey(1, size256).Fingerprint() == testKey(2, size256).Fingerprint() {
		t.Error("two keys of one fingerprint")
	}
}

func TestGenerateDrawsAgain(t *testing.T) {
	good := testKey(1, size128)
	draws := [][]byte{
		make([]byte, 48), // all zero
		slicesOf(1, 16, 'a', 1, 'b', 15, 3, 15, 4, 1), // text as HMAC secret
		slicesOf(1, 16, 3, 15, 4, 1, 3, 15, 4, 1),     // the same twice
		written(ATS, Set{Keys: []Key{good}}),
	}
	n := 0
	k := generate(func(buf []byte) (int, error) {
		n++
		return copy(buf, draws[n-1]), nil
	}, size128)
	if n != len(draws) || !k.Equal(good) {
		t.Errorf("%v after %d draws", k, n)
	}
}

func TestKeyRedacts(t *testing.T) {
	k := testKey(1, size256)
	set := withNext(testSet(size256, 1, 2), testKey(1, size256))
	ring := NewRing(clock(), twiceADay)
	if _, err := ring.Replace(t.Context(), testSet(size256, 1, 2), Update{Source: SourceAPI}); err != nil {
		t.Fatal(err)
	}
	type outer struct {
		key     Key
		pointer *Key
		list    []Key
		table   map[string]Key
		set     Set
		any     any
	}
	type exported struct {
		Key     Key
		Pointer *Key
		Set     Set
	}
	values := []any{
		k, &k,
		[]Key{k},
		map[string]Key{"k": k},
		set, &set,
		outer{k, &k, []Key{k}, map[string]Key{"k": k}, set, k},
		&outer{k, &k, []Key{k}, map[string]Key{"k": k}, set, k},
		exported{k, &k, set},
		&exported{k, &k, set}, ring,
		struct{ r *Ring }{ring},
	}
	var texts []string
	for _, v := range values {
		for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
			for _, flags := range []string{"", "+", "#", " ", "-", "0", "+#", "20.3"} {
				texts = append(texts, fmt.Sprintf("%"+flags+string(verb), v))
			}
		}
		for _, handler := range []func(*bytes.Buffer) slog.Handler{
			func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			var b bytes.Buffer
			slog.New(handler(&b)).Info("message", "value", v, slog.Group("group", "value", v))
			texts = append(texts, b.String())
		}
		if data, err := json.Marshal(v); err == nil {
			texts = append(texts, string(data))
		}
	}
	texts = append(texts, k.String(), k.GoString())
	m := k.view()
	var forbidden []string
	for _, secret := range [][]byte{m.hmacSecret[:8], m.aesKey[:8]} {
		forbidden = append(forbidden, string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
			base64.StdEncoding.EncodeToString(secret)[:8], strings.Trim(fmt.Sprint(secret), "[]"), fmt.Sprintf("% x", secret),
			strings.Trim(fmt.Sprintf("%#v", secret), "[]byte{}"), strings.Trim(fmt.Sprintf("%q", secret), `"`))
	}
	for _, text := range texts {
		for _, f := range forbidden {
			if strings.Contains(text, f) {
				t.Fatalf("%q stands in %q", f, text)
			}
		}
	}

	if got, want := fmt.Sprintf("%x", k), "ticket key "+k.Name().String()+" (256 bits)"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	data, err := json.Marshal(exported{Key: k})
	if want := `{"Key":{"name":"` + k.Name().String() + `","bits":256},"Pointer":null,"Set":{"Keys":null,"Next":null}}`; err != nil || string(data) != want {
		t.Errorf("marshaled %s, %v, want %s", data, err, want)
	}
}

package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sessapi/sessapi/internal/seal"
)

func newKeys(tb testing.TB, files ...[]byte) *seal.Keys {
	tb.Helper()
	if files == nil {
		files = [][]byte{seal.GenerateKey()}
	}
	k, err := seal.ParseKeys(bytes.Join(files, nil))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

var binding = seal.Binding{Kind: "session", Namespace: "edge", ID: []byte{1, 2}}

// strangers are bindings that look like binding when they are run together.
var strangers = []seal.Binding{
	{},
	{Kind: "session", Namespace: "edge"},
	{Kind: "session", Namespace: "edge", ID: []byte{1, 3}},
	{Kind: "sessione", Namespace: "dge", ID: []byte{1, 2}},
	{Kind: "session", Namespace: "edge\x01", ID: []byte{2}},
	{Kind: "ticket keys", Namespace: "edge", ID: []byte{1, 2}},
}

func TestParseKeys(t *testing.T) {
	line := string(seal.GenerateKey())
	for _, test := range []struct{ file, want string }{
		{line, ""},
		{"# comment\n\n  " + strings.TrimSpace(line) + " \r\n" + string(seal.GenerateKey()), ""},
		{"", "seal: no key; sessapi seal-key new makes one"},
		{"# nothing\n", "seal: no key; sessapi seal-key new makes one"},
		{line + "\n" + line, "seal: line 3 repeats the key of an earlier line"},
		{strings.TrimPrefix(line, "sessapi-"), "seal: line 1 does not start with sessapi-seal-key-v1:"},
		{line[:len(line)-3], "seal: line 1 is not the base64 of 32 bytes"},
		{"sessapi-seal-key-v1:AAAA", "seal: line 1 is not the base64 of 32 bytes"},
		{"sessapi-seal-key-v1:" + strings.Repeat("!", 44), "seal: line 1 is not the base64 of 32 bytes"},
	} {
		_, err := seal.ParseKeys([]byte(test.file))
		if got := fmt.Sprint(err); (err != nil || test.want != "") && got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
	var many []byte
	for range 65 {
		many = append(many, seal.GenerateKey()...)
	}
	if _, err := seal.ParseKeys(many); err == nil {
		t.Error("any number of keys is taken")
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	line := bytes.Repeat([]byte{'K'}, 43) // the base64 of (0x28, 0xa2, 0x8a)…
	line[42] = 'I'                        // which leaves no bits over
	k := newKeys(t, append(append([]byte("sessapi-seal-key-v1:"), line...), '='))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%t"} {
		if got := fmt.Sprintf(verb, k) + fmt.Sprintf(verb, struct{ k *seal.Keys }{k}); strings.Contains(strings.ToLower(got), "28a2") || strings.Contains(got, "40 162") {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}

func TestSeal(t *testing.T) {
	old, latest := seal.GenerateKey(), seal.GenerateKey()
	before, after := newKeys(t, old), newKeys(t, latest, old)
	for _, size := range []int{0, 1, 160, 70_000} {
		plain := bytes.Repeat([]byte{7}, size)
		sealed := before.Seal([]byte("head"), plain, binding)
		if len(sealed) != 4+size+seal.Overhead || string(sealed[:4]) != "head" {
			t.Fatalf("%d bytes are sealed in %d", size, len(sealed))
		}
		sealed = sealed[4:]
		for _, k := range []*seal.Keys{before, after} {
			got, err := k.Open([]byte("head"), sealed, binding)
			if err != nil || string(got) != "head"+string(plain) {
				t.Errorf("%d bytes open as %d: %v", size, len(got), err)
			}
		}
		if bytes.Equal(before.Seal(nil, plain, binding), sealed) {
			t.Error("sealed twice the same")
		}
		if _, err := before.Open(nil, after.Seal(nil, plain, binding), binding); !errors.Is(err, seal.ErrUnknownKey) {
			t.Errorf("the first of the keys does not seal: %v", err)
		}
		for _, other := range strangers {
			if _, err := before.Open(nil, sealed, other); !errors.Is(err, seal.ErrCorrupt) {
				t.Errorf("opens as %+v: %v", other, err)
			}
		}
	}
}

func TestChangedRecords(t *testing.T) {
	k := newKeys(t)
	sealed := k.Seal(nil, []byte("a session"), binding)
	for bit := range 8 * len(sealed) {
		changed := bytes.Clone(sealed)
		changed[bit/8] ^= 1 << (bit % 8)
		want := seal.ErrCorrupt
		switch {
		case bit < 8:
			want = seal.ErrVersion
		case bit < 8*9:
			want = seal.ErrUnknownKey
		}
		if got, err := k.Open(nil, changed, binding); !errors.Is(err, want) || len(got) != 0 {
			t.Errorf("bit %d: %v, want %v", bit, err, want)
		}
	}
	for n := range sealed {
		if _, err := k.Open(nil, sealed[:n], binding); !errors.Is(err, seal.ErrCorrupt) {
			t.Errorf("%d bytes of it: %v", n, err)
		}
	}
}

func sealStream(tb testing.TB, k *seal.Keys, plain []byte) []byte {
	tb.Helper()
	var sealed bytes.Buffer
	w, err := k.NewWriter(&sealed, binding)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return sealed.Bytes()
}

func openStream(k *seal.Keys, sealed []byte, b seal.Binding) ([]byte, error) {
	r, err := k.NewReader(bytes.NewReader(sealed), b)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

const (
	headerSize  = 1 + 8 + 32
	chunkSize   = 64 << 10
	sealedChunk = chunkSize + 16
)

func TestStream(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	old, latest := seal.GenerateKey(), seal.GenerateKey()
	k := newKeys(t, old)
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 3 * chunkSize, 3*chunkSize + 5} {
		plain := make([]byte, size)
		for i := range plain {
			plain[i] = byte(random.Uint32())
		}
		var sealed bytes.Buffer
		w, err := k.NewWriter(&sealed, binding)
		if err != nil {
			t.Fatal(err)
		}
		for rest := plain; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(2*chunkSize))
			if written, err := w.Write(rest[:n]); written != n || err != nil {
				t.Fatal(written, err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte{1}); err == nil || w.Close() == nil {
			t.Error("a closed stream is written to")
		}
		if got, err := openStream(newKeys(t, latest, old), sealed.Bytes(), binding); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes open as %d: %v", size, len(got), err)
		}
		for _, other := range strangers {
			if _, err := openStream(k, sealed.Bytes(), other); !errors.Is(err, seal.ErrCorrupt) {
				t.Errorf("opens as %+v: %v", other, err)
			}
		}
		if _, err := openStream(newKeys(t), sealed.Bytes(), binding); !errors.Is(err, seal.ErrUnknownKey) {
			t.Error(err)
		}
	}
}

func TestChangedStreams(t *testing.T) {
	k := newKeys(t)
	plain := make([]byte, 3*chunkSize)
	for i := range plain {
		plain[i] = byte(i / chunkSize)
	}
	whole := sealStream(t, k, plain)
	other := sealStream(t, k, plain)
	chunk := func(stream []byte, i int) []byte { return stream[headerSize+i*sealedChunk:][:sealedChunk] }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	header := whole[:headerSize]
	first, second, last := chunk(whole, 0), chunk(whole, 1), chunk(whole, 2)
	changed := map[string][]byte{
		"the last chunk is gone":       join(header, first, second),
		"all chunks are gone":          header,
		"a chunk is gone":              join(header, first, last),
		"the first is the last":        join(header, last),
		"two chunks change places":     join(header, second, first, last),
		"a chunk comes twice":          join(header, first, first, second, last),
		"the last comes twice":         join(whole, last),
		"a byte is behind the end":     join(whole, []byte{0}),
		"a chunk is another stream's":  join(header, first, chunk(other, 1), last),
		"the header is another's":      join(other[:headerSize], first, second, last),
		"an empty chunk is at the end": join(whole, sealStream(t, k, nil)[headerSize:]),
		"it is two streams":            join(whole, other),
		"it is a record":               k.Seal(nil, plain, binding),
	}
	for _, cut := range []int{0, 1, headerSize - 1, headerSize + 15, headerSize + sealedChunk - 1, headerSize + sealedChunk + 1, len(whole) - 1} {
		changed[fmt.Sprintf("%d bytes are left", cut)] = whole[:cut]
	}
	for _, at := range []int{9, headerSize, headerSize + sealedChunk, len(whole) - 1} {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 0x10
		changed[fmt.Sprintf("a bit of byte %d is flipped", at)] = flipped
	}
	for what, stream := range changed {
		got, err := openStream(k, stream, binding)
		if !errors.Is(err, seal.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
		if !bytes.HasPrefix(plain, got) {
			t.Errorf("%s: returns bytes that are not there", what)
		}
	}
	if _, err := k.Open(nil, whole, binding); !errors.Is(err, seal.ErrCorrupt) {
		t.Errorf("a stream opens as a record: %v", err)
	}
}

var errDisk = errors.New("disk")

type failing struct{ room int }

func (f *failing) Write(p []byte) (int, error) {
	if f.room -= len(p); f.room < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

func (f *failing) Read(p []byte) (int, error) {
	return f.Write(p[:min(len(p), 100)])
}

func TestStreamPassesErrorsOn(t *testing.T) {
	k := newKeys(t)
	for _, room := range []int{0, headerSize, headerSize + sealedChunk} {
		w, err := k.NewWriter(&failing{room}, binding)
		if err == nil {
			_, err = w.Write(make([]byte, 2*chunkSize))
			err = errors.Join(err, w.Close())
		}
		if !errors.Is(err, errDisk) {
			t.Errorf("room of %d: %v", room, err)
		}
	}
	sealed := sealStream(t, k, make([]byte, 2*chunkSize))
	for _, n := range []int{0, 10, headerSize, headerSize + sealedChunk} {
		r, err := k.NewReader(io.MultiReader(bytes.NewReader(sealed[:n]), &failing{}), binding)
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if !errors.Is(err, errDisk) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

const fuzzKey = "sessapi-seal-key-v1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// What was sealed by an earlier version opens for ever: files and stores outlive
// the program.
func TestFrozen(t *testing.T) {
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join("testdata", "frozen", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	k := newKeys(t, read("seal.key"))
	b := seal.Binding{Kind: "frozen", Namespace: "test", ID: []byte{1, 2, 3}}
	if got, err := k.Open(nil, read("record"), b); err != nil || string(got) != "what a record holds" {
		t.Errorf("record: %q, %v", got, err)
	}
	if got, err := openStream(k, read("stream"), b); err != nil || !bytes.Equal(got, bytes.Repeat([]byte("stream "), 10000)) {
		t.Errorf("stream: %d bytes, %v", len(got), err)
	}
}

func FuzzOpen(f *testing.F) {
	k := newKeys(f, []byte(fuzzKey))
	f.Add(k.Seal(nil, []byte("a session"), binding))
	f.Add(sealStream(f, k, []byte("sessions")))
	f.Add(sealStream(f, k, nil))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if plain, err := k.Open(nil, sealed, binding); err == nil && len(plain)+seal.Overhead != len(sealed) {
			t.Errorf("%d bytes of %d", len(plain), len(sealed))
		}
		if plain, err := openStream(k, sealed, binding); err == nil && len(plain) >= len(sealed) {
			t.Errorf("%d bytes of %d", len(plain), len(sealed))
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(fuzzKey))
	f.Add([]byte("# a\n\n" + fuzzKey + "\r\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		k, err := seal.ParseKeys(file)
		if err != nil {
			return
		}
		if plain, err := k.Open(nil, k.Seal(nil, file, binding), binding); err != nil || !bytes.Equal(plain, file) {
			t.Error(err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k := newKeys(b)
	plain, sealed := make([]byte, 160), make([]byte, 0, 300)
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		k.Seal(sealed, plain, binding)
	}
}

func BenchmarkOpen(b *testing.B) {
	k := newKeys(b)
	sealed, opened := k.Seal(nil, make([]byte, 160), binding), make([]byte, 0, 300)
	b.SetBytes(160)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open(opened, sealed, binding); err != nil {
			b.Fatal(err)
		}
	}
}

// Example replaces a key: what the one before sealed still opens.
func Example() {
	first := seal.GenerateKey()
	keys, err := seal.ParseKeys(first)
	if err != nil {
		fmt.Println(err)
		return
	}
	what := seal.Binding{Kind: "greeting", ID: []byte{1}}
	sealed := keys.Seal(nil, []byte("hello"), what)

	file := append(seal.GenerateKey(), first...) // the new one in front
	if keys, err = seal.ParseKeys(file); err != nil {
		fmt.Println(err)
		return
	}
	opened, err := keys.Open(nil, sealed, what)
	fmt.Println(string(opened), err)
	_, err = keys.Open(nil, sealed, seal.Binding{Kind: "farewell", ID: []byte{1}})
	fmt.Println(err)
	// Output:
	// hello <nil>
	// seal: corrupt, incomplete, or of another kind
}

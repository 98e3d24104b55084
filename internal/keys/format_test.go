package keys

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestParseFormat(t *testing.T) {
	f, err := ParseFormat("ats")
	if err != nil || f != ATS || f.String() != "ats" {
		t.Errorf("ats is %v, %v", f, err)
	}
	for _, name := range []string{"", "ATS", "ats ", "pem"} {
		if _, err := ParseFormat(name); !errors.Is(err, ErrUnknownFormat) {
			t.Errorf("ParseFormat(%q): %v", name, err)
		}
	}
}

func TestATSParse(t *testing.T) {
	data := make([]byte, 65*48)
	for i := range data {
		data[i] = byte(i % 251)
	}
	for _, test := range []struct {
		size int
		want []string
	}{
		{48, nil},
		{96, nil},
		{64 * 48, nil},
		{0, []string{"keys count"}},
		{1, []string{"keys[0] length"}},
		{47, []string{"keys[0] length"}},
		{49, []string{"keys[1] length"}},
		{80, []string{"keys[1] length"}},
		{95, []string{"keys[1] length"}},
		{97, []string{"keys[2] length"}},
		{64*48 - 1, []string{"keys[63] length"}},
		{64*48 + 1, []string{"keys count"}},
		{65 * 48, []string{"keys count"}},
	} {
		set, err := ATS.Parse(data[:test.size])
		if got := issuesOf(t, err); !slices.Equal(got, test.want) {
			t.Errorf("%d bytes: issues %q, want %q", test.size, got, test.want)
		}
		if err == nil && (len(set.Keys) != test.size/48 || set.Next != nil) {
			t.Errorf("%d bytes: %d keys, next %v", test.size, len(set.Keys), set.Next)
		}
	}
	_, err := ATS.Parse(data[:95])
	if want := "invalid ticket keys: keys[1] has 47 of the 48 bytes of a record (95 bytes in all)"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

func TestATSLayout(t *testing.T) {
	data := slicesOf(1, 16, 2, 16, 3, 16, 4, 16, 5, 16, 6, 16)
	set, err := ATS.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	want := []Key{
		NewKey(slicesOf(1, 16), slicesOf(2, 16), slicesOf(3, 16)),
		NewKey(slicesOf(4, 16), slicesOf(5, 16), slicesOf(6, 16)),
	}
	if !slices.EqualFunc(set.Keys, want, Key.Equal) {
		t.Errorf("parsed %v", set)
	}
	clear(data)
	if !set.Keys[0].Equal(want[0]) {
		t.Error("the set shares memory with the data")
	}
	set.Next = new(NewKey(slicesOf(7, 16), slicesOf(8, 16), slicesOf(9, 16)))
	got := ATS.Append([]byte{0}, set)
	if !bytes.Equal(got, slicesOf(0, 1, 1, 16, 2, 16, 3, 16, 7, 16, 8, 16, 9, 16, 4, 16, 5, 16, 6, 16)) {
		t.Errorf("appended %x", got)
	}
}

// testdata/ats-derived.txt is a list of keys of 256 bits (name, HMAC secret,
// AES key) and of the 32 bytes that take the place of their secrets in a file
// of 48-byte records. The last column was computed by
//
//	openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt hexkey:$HMAC_SECRET$AES_KEY \
//		-kdfopt hexsalt:$NAME -kdfopt info:'sessapi ats v1' HKDF
func TestATSDerived(t *testing.T) {
	file, err := os.Open("testdata/ats-derived.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	vectors := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		var columns [4][]byte
		for i, text := range strings.Fields(lines.Text()) {
			if columns[i], err = hex.DecodeString(text); err != nil {
				t.Fatal(err)
			}
		}
		set := Set{Keys: []Key{NewKey(columns[0], columns[1], columns[2])}}
		if got, want := ATS.Append(nil, set), slices.Concat(columns[0], columns[3]); !bytes.Equal(got, want) {
			t.Errorf("name %x: %x, want %x", columns[0], got, want)
		}
		vectors++
	}
	if vectors != 3 {
		t.Errorf("%d vectors", vectors)
	}
}

// A buffer that is too small is left before the first secret is written to it.
func TestATSAppendLeavesNoSecretsBehind(t *testing.T) {
	small := make([]byte, 0, 60)
	ATS.Append(small, withNext(testSet(size128, 1, 2), testKey(3, size128)))
	if !bytes.Equal(small[:60], make([]byte, 60)) {
		t.Errorf("left %x", small[:60])
	}
}

func FuzzParseATS(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := ATS.Parse(data)
		if wellFormed := len(data) > 0 && len(data)%48 == 0 && len(data) <= MaxKeys*48; wellFormed != (err == nil) {
			t.Fatalf("%d bytes: %v", len(data), err)
		}
		if err != nil {
			issuesOf(t, err)
			return
		}
		if got := ATS.Append(nil, set); !bytes.Equal(got, data) {
			t.Fatalf("read %x, wrote %x", data, got)
		}
		issuesOf(t, set.Validate())
		set.Wipe()
		for _, k := range set.Keys {
			if !wiped(k) {
				t.Fatalf("%v is not wiped", k)
			}
		}
	})
}

func BenchmarkATSParse(b *testing.B) {
	data := ATS.Append(nil, testSet(size128, 1, 2, 3, 4))
	b.ReportAllocs()
	for b.Loop() {
		set, err := ATS.Parse(data)
		if err != nil {
			b.Fatal(err)
		}
		set.Wipe()
	}
}

func BenchmarkATSAppend(b *testing.B) {
	for _, test := range []struct {
		name string
		size int
	}{{"verbatim", size128}, {"derived", size256}} {
		b.Run(test.name, func(b *testing.B) {
			set := testSet(test.size, 1, 2, 3, 4)
			buf := make([]byte, 0, 4*48)
			b.ReportAllocs()
			for b.Loop() {
				clear(ATS.Append(buf, set))
			}
		})
	}
}

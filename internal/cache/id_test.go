package cache_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/sessapi/sessapi/internal/cache"
)

func TestParseID(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 4)
	tests := []struct {
		in, want string // want is empty for an invalid one
	}{
		{"00", "00"},
		{"ff", "ff"},
		{"AbCd", "abcd"},
		{"0000", "0000"},
		{long, long},
		{strings.ToUpper(long), long},
		{"", ""},
		{"0", ""},
		{"000", ""},
		{long[1:], ""},
		{long + "0", ""},
		{long + "00", ""},
		{strings.Repeat("0", 1<<20), ""},
		{"0g", ""},
		{"g0", ""},
		{" 00", ""},
		{"0x00", ""},
		{"00\n", ""},
		{"é", ""},
		{"\x00\x00", ""},
	}
	for _, test := range tests {
		id, err := cache.ParseID(test.in)
		if test.want == "" {
			if err != cache.ErrInvalidID || id != (cache.ID{}) {
				t.Errorf("ParseID(%.70q) = %v, %v, want ErrInvalidID", test.in, id, err)
			}
			continue
		}
		if err != nil || id.String() != test.want {
			t.Errorf("ParseID(%q) = %v, %v", test.in, id, err)
		}
	}
}

func TestMakeID(t *testing.T) {
	for n := range 40 {
		b := bytes.Repeat([]byte{0xa5}, n)
		id, err := cache.MakeID(b)
		if n < 1 || n > 32 {
			if err != cache.ErrInvalidID || id != (cache.ID{}) {
				t.Errorf("MakeID of %d bytes = %v, %v, want ErrInvalidID", n, id, err)
			}
			continue
		}
		if err != nil || !bytes.Equal(id.Bytes(), b) || id.String() != hex.EncodeToString(b) {
			t.Errorf("MakeID of %d bytes = %v, %v", n, id, err)
		}
		b[0]++
		id.Bytes()[0]++
		if got := id.Bytes()[0]; got != 0xa5 {
			t.Errorf("an ID of %d bytes shares memory with its maker or user", n)
		}
	}
	short, _ := cache.MakeID([]byte{1})
	long, _ := cache.MakeID([]byte{1, 0})
	if short == long {
		t.Error("IDs that differ in trailing zeros are equal")
	}
}

func TestParseIDDoesNotAllocate(t *testing.T) {
	long := strings.Repeat("0f", 32)
	bad := strings.Repeat("0f", 31) + "0g"
	if n := testing.AllocsPerRun(100, func() {
		_, _ = cache.ParseID(long)
		_, _ = cache.ParseID(bad)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTag(t *testing.T) {
	for _, data := range []string{"", "a session"} {
		sum := sha256.Sum256([]byte(data))
		if got, want := string(cache.TagOf([]byte(data)).AppendHex([]byte("tag "))), fmt.Sprintf("tag %x", sum[:16]); got != want {
			t.Errorf("the tag of %q is %s, want %s", data, got, want)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("00")
	f.Add("AbCdEf")
	f.Add(strings.Repeat("5a", 32))
	f.Add(strings.Repeat("5a", 33))
	f.Add("0g")
	f.Fuzz(func(t *testing.T, s string) {
		want, err := hex.DecodeString(s)
		valid := err == nil && len(want) >= 1 && len(want) <= 32
		id, err := cache.ParseID(s)
		switch {
		case valid != (err == nil):
			t.Fatalf("ParseID(%q): %v", s, err)
		case err != nil:
			if err != cache.ErrInvalidID || id != (cache.ID{}) {
				t.Fatalf("ParseID(%q) = %v, %v", s, id, err)
			}
			return
		}
		if id.String() != strings.ToLower(s) || !bytes.Equal(id.Bytes(), want) {
			t.Fatalf("ParseID(%q) = %v", s, id)
		}
		if made, err := cache.MakeID(want); err != nil || made != id {
			t.Fatalf("MakeID(%x) = %v, %v, ParseID made %v", want, made, err, id)
		}
	})
}

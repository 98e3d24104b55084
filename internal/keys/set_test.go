package keys

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// issuesOf returns the issues of an InvalidError as "field kind".
func issuesOf(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*InvalidError](err)
	if !ok {
		t.Fatalf("%v is no InvalidError", err)
	}
	var got []string
	for _, issue := range invalid.Issues {
		got = append(got, issue.Field+" "+string(issue.Kind))
		if issue.Reason == "" || !strings.Contains(err.Error(), issue.Field+" "+issue.Reason) {
			t.Errorf("%q does not say %q of %s", err, issue.Reason, issue.Field)
		}
	}
	return got
}

func TestValidate(t *testing.T) {
	random := func(n int) []byte { return testKey(n, size256).AppendAESKey(nil) }
	name := func(n int) []byte { return testKey(n, size256).view().name }
	numbers := func(n int) []int {
		s := make([]int, n)
		for i := range s {
			s[i] = i
		}
		return s
	}
	for _, test := range []struct {
		name string
		set  Set
		want []string
	}{
		{"one of 128", testSet(size128, 1), nil},
		{"one of 256", testSet(size256, 1), nil},
		{"with next", withNext(testSet(size256, 1, 2), testKey(3, size256)), nil},
		{"64", testSet(size128, numbers(64)...), nil},
		{"63 and next", withNext(testSet(size128, numbers(63)...), testKey(63, size128)), nil},

		{"none", Set{}, []string{"keys count"}},
		{"only next", withNext(Set{}, testKey(1, size128)), []string{"keys count"}},
		{"65", testSet(size128, numbers(65)...), []string{"keys count"}},
		{"64 and next", withNext(testSet(size128, numbers(64)...), testKey(64, size128)), []string{"keys count"}},

		{"no material", Set{Keys: []Key{{}}}, []string{"keys[0].name length", "keys[0].hmac_secret length", "keys[0].aes_key length"}},
		{"lengths", withNext(Set{Keys: []Key{
			testKey(1, size256),
			NewKey(random(2)[:15], random(3), random(4)),
			NewKey(name(5), random(5)[:17], random(6)),
			NewKey(name(7), random(7), random(8)[:31]),
		}}, NewKey(random(9)[:17], random(9)[:1], nil)), []string{
			"keys[1].name length", "keys[2].hmac_secret length", "keys[3].aes_key length",
			"next.name length", "next.hmac_secret length", "next.aes_key length",
		}},

		{"duplicate", withNext(testSet(size128, 1, 2, 1), testKey(2, size128)), []string{"keys[2].name duplicate_name", "next.name duplicate_name"}},
		{"duplicate name only", Set{Keys: []Key{testKey(1, size128), NewKey(name(1), random(2)[:16], random(3)[:16])}}, []string{"keys[1].name duplicate_name"}},

		{"mixed in the set", withNext(Set{Keys: []Key{testKey(1, size128), testKey(2, size256), testKey(3, size128)}}, testKey(4, size256)), nil},
		{"mixed in a key", Set{Keys: []Key{NewKey(name(1), random(1), random(2)[:16])}}, []string{"keys[0] mixed_size"}},
		{"mixed in a key is no measure for others", Set{Keys: []Key{NewKey(name(1), random(1)[:16], random(2)), testKey(3, size256)}}, []string{"keys[0] mixed_size"}},

		{"zero", Set{Keys: []Key{NewKey(name(1), make([]byte, 16), random(1)[:16])}}, []string{"keys[0].hmac_secret weak"}},
		{"one byte", withNext(testSet(size256, 1), NewKey(name(2), random(2), slicesOf(0xaa, 32))), []string{"next.aes_key weak"}},
		{"all but one byte", Set{Keys: []Key{NewKey(name(1), slicesOf(0, 15, 1, 1), slicesOf(0xaa, 15, 0, 1))}}, nil},
		{"the same secrets", Set{Keys: []Key{NewKey(name(1), random(1), random(1))}}, []string{"keys[0] weak"}},
		{"base64", Set{Keys: []Key{NewKey([]byte("mJvOYpyWkYJ8Ov5H"), []byte("0zq3C1cQBmX1S9cA"), []byte("pkK/9WBqTn3+aZr8"))}}, []string{
			"keys[0].hmac_secret weak", "keys[0].aes_key weak",
		}},
		{"text with line ends", Set{Keys: []Key{NewKey(name(1), []byte("a secret, written\tby hand: 12\r\n~"), random(2))}}, []string{"keys[0].hmac_secret weak"}},
		{"nearly text", Set{Keys: []Key{
			NewKey(name(1), []byte("0zq3C1cQBmX1S9c\x7f"), []byte("pkK/9WBqTn3+aZr\x80")),
			NewKey(name(2), []byte("0zq3C1cQBmX1S9c\x1f"), []byte("pkK/9WBqTn3+aZr\x00")),
		}}, nil},
		{"everything", withNext(Set{Keys: []Key{NewKey(name(1), make([]byte, 16), make([]byte, 16))}}, NewKey(name(1), slicesOf(7, 32), nil)), []string{
			"keys[0].hmac_secret weak", "keys[0].aes_key weak", "keys[0] weak",
			"next.hmac_secret weak", "next.aes_key length", "next.name duplicate_name",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := issuesOf(t, test.set.Validate()); !slices.Equal(got, test.want) {
				t.Errorf("issues %q, want %q", got, test.want)
			}
		})
	}
}

// The reason tells users of the common recipe which command to run instead.
func TestTextReason(t *testing.T) {
	err := (&Set{Keys: []Key{NewKey([]byte("mJvOYpyWkYJ8Ov5H"), []byte("0zq3C1cQBmX1S9cA"), []byte("pkK/9WBqTn3+aZr8"))}}).Validate()
	for _, want := range []string{"96 bits", "instead of 128", "openssl rand 48"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	for _, secret := range []string{"0zq3C1cQ", "pkK/9WBq"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%q holds a secret", err)
		}
	}
}

func TestWipeReachesEveryKey(t *testing.T) {
	next := testKey(3, size256)
	for _, set := range []Set{withNext(testSet(size256, 1, 2), next), withNext(Set{}, next.clone())} {
		set.Wipe()
		for _, k := range append(set.Keys, *set.Next) {
			if !wiped(k) {
				t.Errorf("%v is not wiped", k)
			}
		}
	}
}

// wiped reports whether the secrets of k are zero.
func wiped(k Key) bool {
	m := k.view()
	return len(m.aesKey) > 0 && !slices.ContainsFunc(slices.Concat(m.hmacSecret, m.aesKey), func(b byte) bool { return b != 0 })
}

func TestGenerate(t *testing.T) {
	for _, bits := range []int{128, 256} {
		for _, count := range []int{1, 2, 3, MaxKeys} {
			set := Generate(bits, count)
			if err := set.Validate(); err != nil || set.len() != count || (set.Next != nil) != (count > 1) || set.Keys[0].Bits() != bits {
				t.Errorf("%d keys of %d bits: %d keys, next %v, %v", count, bits, set.len(), set.Next, err)
			}
		}
	}
}

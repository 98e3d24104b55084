package keys

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// written returns the output of the format for a set.
func written(f Format, set Set) []byte { return f.Append(nil, set) }

// fullSet returns a set of four keys: 48-byte records of them never have the length of
// 80-byte ones, and vice versa.
func fullSet(size int) Set { return withNext(testSet(size, 1, 2, 3), testKey(4, size)) }

// ordered returns the keys in the order of their roles.
func ordered(set Set) []Key {
	var keys []Key
	for _, k := range set.all() {
		keys = append(keys, k)
	}
	return keys
}

func TestFormatNames(t *testing.T) {
	var names, text, oneKey, readable []string
	for i, f := range Formats() {
		if int(f) != i {
			t.Errorf("format %d is number %d", f, i)
		}
		if got, err := ParseFormat(f.String()); got != f || err != nil {
			t.Errorf("ParseFormat(%q): %v, %v", f, got, err)
		}
		names = append(names, f.String())
		for list, is := range map[*[]string]bool{&text: f.Text(), &oneKey: f.OneKey(), &readable: f.Readable()} {
			if is {
				*list = append(*list, f.String())
			}
		}
	}
	for _, test := range []struct {
		got  []string
		want string
	}{
		{names, "ats httpd nginx envoy haproxy dnsdist h2o openssl nghttpx lighttpd go"},
		{text, "haproxy h2o go"},
		{oneKey, "httpd nginx envoy openssl nghttpx lighttpd"},
		{readable, "ats httpd nginx envoy haproxy dnsdist openssl nghttpx lighttpd"},
	} {
		if got := strings.Join(test.got, " "); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
	for _, name := range []string{"", "ATS", "ats ", "pem"} {
		if _, err := ParseFormat(name); !errors.Is(err, ErrUnknownFormat) {
			t.Errorf("ParseFormat(%q): %v", name, err)
		}
	}
}

func TestParseCopies(t *testing.T) {
	for _, f := range []Format{ATS, NGINX, HAProxy, DNSDist} {
		data := written(f, fullSet(size128))
		set, err := f.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		before := set.clone()
		clear(data)
		if !set.equal(&before) {
			t.Errorf("a set of %s shares memory with the data", f)
		}
	}
}

func TestParseRecords(t *testing.T) {
	data := make([]byte, 65*80)
	for i := range data {
		data[i] = byte(i % 251)
	}
	for _, test := range []struct {
		format Format
		size   int
		want   string // field and kind; empty if accepted
	}{
		{ATS, 48, ""},
		{ATS, 96, ""},
		{ATS, 64 * 48, ""},
		{ATS, 0, "keys count"},
		{ATS, 1, "keys[0] length"},
		{ATS, 47, "keys[0] length"},
		{ATS, 49, "keys[1] length"},
		{ATS, 80, "keys[1] length"},
		{ATS, 95, "keys[1] length"},
		{ATS, 97, "keys[2] length"},
		{ATS, 64*48 - 1, "keys[63] length"},
		{ATS, 64*48 + 1, "keys count"},
		{ATS, 65 * 48, "keys count"},
		{DNSDist, 64 * 80, ""},
		{DNSDist, 65 * 80, "keys count"},
		{NGINX, 48, ""},
		{NGINX, 80, ""},
		{NGINX, 4 * 48, ""},
		{NGINX, 4 * 80, ""},
		{NGINX, 64 * 48, ""},
		{NGINX, 64 * 80, ""},
		{NGINX, 0, "keys count"},
		{NGINX, 1, "keys length"},
		{NGINX, 47, "keys length"},
		{NGINX, 81, "keys length"},
		{NGINX, 128, "keys length"}, // one of each
		{NGINX, 240, "keys length"}, // 5 of 48 or 3 of 80
		{NGINX, 480, "keys length"},
		{NGINX, 65 * 48, "keys length"}, // 39 of 80
		{NGINX, 66 * 48, "keys count"},
		{NGINX, 65 * 80, "keys count"},
	} {
		set, err := test.format.Parse(data[:test.size])
		if got := strings.Join(issuesOf(t, err), ", "); got != test.want {
			t.Errorf("%s, %d bytes: issues %q, want %q", test.format, test.size, got, test.want)
		}
		if err == nil && ((len(set.Keys)*48 != test.size && len(set.Keys)*80 != test.size) || set.Next != nil) {
			t.Errorf("%s, %d bytes: %d keys, next %v", test.format, test.size, len(set.Keys), set.Next)
		}
	}
	for _, test := range []struct {
		format Format
		size   int
		want   string
	}{
		{ATS, 95, "keys[1] is incomplete; it has 47 of 48 bytes (95 bytes in all)"},
		{NGINX, 95, "keys have 95 bytes, want a multiple of 48 or 80 bytes; for keys of both sizes, " + apart},
		{NGINX, 240, "keys have 240 bytes: 5 keys of 48 bytes or 3 of 80; " + apart},
	} {
		if _, err := test.format.Parse(data[:test.size]); err == nil || err.Error() != "invalid ticket keys: "+test.want {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}

// The error says what was sent in place of a binary file.
func TestParseSaysWhatItIs(t *testing.T) {
	ats, dnsdist := written(ATS, testSet(size128, 1)), written(DNSDist, testSet(size256, 1))
	wrapped := func(text string) string { return text[:64] + "\n" + text[64:] + "\n" }
	for _, test := range []struct {
		name   string
		format Format
		data   string
		want   string
	}{
		{"newline", ATS, string(ats) + "\n", "keys have 49 bytes, want a multiple of 48 bytes; the last byte is a newline"},
		{"newline after a key that ends in \\r", ATS, string(ats[:47]) + "\r\n", "keys have 49 bytes, want a multiple of 48 bytes; the last byte is a newline"},
		{"CRLF", NGINX, string(dnsdist) + "\r\n", "keys have 82 bytes, want a multiple of 48 or 80 bytes; the last two bytes are a line end"},
		{"hex", ATS, hex.EncodeToString(ats), "keys are hex text that encodes 48 bytes; decode it: the format is binary"},
		{"hex with a newline", ATS, hex.EncodeToString(ats) + "\n", "keys are hex text that encodes 48 bytes; decode it: the format is binary"},
		{"base64", HTTPD, base64.StdEncoding.EncodeToString(ats), "keys are base64 text that encodes 48 bytes; decode it: the format is binary"},
		{"base64 in lines", DNSDist, wrapped(base64.StdEncoding.EncodeToString(dnsdist)), "keys are base64 text that encodes 80 bytes; decode it: the format is binary"},
		{"hex of another format", DNSDist, hex.EncodeToString(ats), "keys are hex text that encodes 48 bytes, want a multiple of 80 bytes; decode it and name its format"},
		{"base64 of another format", Lighttpd, base64.StdEncoding.EncodeToString(dnsdist) + "\n", "keys are base64 text that encodes 80 bytes, want a multiple of 92 bytes; decode it and name its format"},
		{"hex for HAProxy", HAProxy, strings.Repeat(hex.EncodeToString(ats)+"\n", 3), "line 1 is hex of 48 bytes, want base64; line 2 is hex of 48 bytes, want base64; line 3 is hex of 48 bytes, want base64"},
		{"a file for HAProxy", ATS, string(written(HAProxy, fullSet(size128))), "keys are base64 lines, as in a file of HAProxy; most likely the format is haproxy"},
		{"wrapped for HAProxy", HAProxy, wrapped(strings.TrimSpace(string(written(HAProxy, testSet(size256, 1))))), "line 2 continues the key of line 1; write each key on one line (base64 -w 0, openssl base64 -A)"},
		{"both sizes", NGINX, string(written(DNSDist, testSet(size256, 1, 2, 3))), "keys have 240 bytes: 5 keys of 48 bytes or 3 of 80; push the files with sessapi keys push FILE..., or send JSON"},
		{"no size", NGINX, string(ats) + string(dnsdist), "keys have 128 bytes, want a multiple of 48 or 80 bytes; for keys of both sizes, push the files with sessapi keys push FILE..., or send JSON"},
		{"version", Lighttpd, "\x01" + string(written(Lighttpd, testSet(size256, 1))[1:]), "keys[0] does not begin with the version 0, four zero bytes"},
		{"base64 of other things", ATS, base64.StdEncoding.EncodeToString(ats[:36]), ""}, // what head -c 48 leaves, for Validate
	} {
		text := ""
		if _, err := test.format.Parse([]byte(test.data)); err != nil {
			text = strings.TrimPrefix(err.Error(), "invalid ticket keys: ")
		}
		if text != test.want {
			t.Errorf("%s: %q, want %q", test.name, text, test.want)
		}
	}
}

func TestParseLines(t *testing.T) {
	line := func(n, size int) string {
		k := testKey(n, size)
		name := k.Name()
		return base64.StdEncoding.EncodeToString(k.AppendHMACSecret(k.AppendAESKey(name[:])))
	}
	a, b, c, long := line(1, size128), line(2, size128), line(3, size128), line(4, size256)
	const big = 64 << 10
	for _, test := range []struct {
		name, text string
		want       string // fields and kinds; empty if accepted
	}{
		{"LF", a + "\n" + b + "\n" + c + "\n", ""},
		{"CRLF", a + "\r\n" + b + "\r\n" + c + "\r\n", ""},
		{"both", a + "\r\n" + b + "\n" + c + "\r\n", ""},
		{"no line end at the end", a + "\n" + b + "\n" + c, ""},
		{"CR at the end", a + "\n" + b + "\n" + c + "\r", "line 3 encoding"},
		{"empty", "", "keys count"},
		{"one empty line", "\n", "line 1 length"},
		{"one empty line with CRLF", "\r\n", "line 1 length"},
		{"one key", a + "\n", "keys count"},
		{"two keys", a + "\n" + b + "\n", "keys count"},
		{"an empty line at the end", a + "\n" + b + "\n" + c + "\n\n", "line 4 length"},
		{"an empty line before", a + "\n\n" + b + "\n" + c + "\n", "line 2 length"},
		{"a comment", "# keys\n" + a + "\n" + b + "\n" + c + "\n", "line 1 encoding"},
		{"CR only", a + "\r" + b + "\r" + c + "\r", "line 1 length"},
		{"CR in a line", a + "\n" + b[:4] + "\r" + b[4:] + "\n" + c + "\n", "line 2 encoding"},
		{"two CRs", a + "\r\r\n" + b + "\n" + c + "\n", "line 1 encoding"},
		{"space at the end", a + " \n" + b + "\n" + c + "\n", "line 1 encoding"},
		{"truncated", a + "\n" + b + "\n" + c[:len(c)-1], "line 3 encoding"},
		{"truncated by four", a + "\n" + b + "\n" + c[:len(c)-4], "line 3 length"},
		{"a digit too many", a + "\n" + b + "A\n" + c, "line 2 encoding"},
		{"no padding", strings.Repeat(strings.TrimRight(long, "=")+"\n", 3), "line 1 encoding, line 2 encoding, line 3 encoding"},
		{"the alphabet of URLs", strings.Repeat("-"+a[1:]+"\n", 2) + c, "line 1 encoding, line 2 encoding"},
		{"byte order mark", "\ufeff" + a + "\n" + b + "\n" + c, "line 1 encoding"},
		{"two sizes", a + "\n" + b + "\n" + long, "line 3 mixed_size"},
		{"keys of go", strings.Repeat(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n", 3), "line 1 length, line 2 length, line 3 length"},
		{"a key again, last", a + "\n" + b + "\n" + a, ""},
		{"a key again, first", a + "\n" + a + "\n" + b, ""},
		{"66 keys", strings.Repeat(a+"\n", 66), "keys count"},
		{"wrapped as openssl does", long[:64] + "\n" + long[64:] + "\n" + long[:64] + "\n" + long[64:], "line 2 encoding"},
		{"wrapped as base64 does", long[:76] + "\r\n" + long[76:] + "\r\n" + long + "\n" + long, "line 2 encoding"},
		{"line ends only", strings.Repeat("\n", big), "keys count"},
		{"one long line", strings.Repeat("A", big), "line 1 length"},
		{"three long lines", strings.Repeat(strings.Repeat("A", big/3)+"\n", 3), "line 1 length, line 2 length, line 3 length"},
	} {
		t.Run(test.name, func(t *testing.T) {
			set, err := HAProxy.Parse([]byte(test.text))
			if got := strings.Join(issuesOf(t, err), ", "); got != test.want {
				t.Fatalf("issues %q, want %q", got, test.want)
			}
			if err == nil && !strings.Contains(test.name, "again") && (set.Next == nil || set.len() != strings.Count(strings.TrimSuffix(test.text, "\n"), "\n")+1) {
				t.Errorf("read %v", set)
			}
		})
	}
	_, err := HAProxy.Parse([]byte(a + "\n!\n" + long))
	if want := "invalid ticket keys: line 2 is not base64; line 3 has 80 bytes, the lines before have 48"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

// A body that is too large is rejected before memory is allocated for its keys.
func TestParseIsBounded(t *testing.T) {
	for _, data := range [][]byte{make([]byte, 64<<10), bytes.Repeat([]byte("\n"), 64<<10), bytes.Repeat([]byte("A"), 64<<10)} {
		for _, f := range Formats() {
			if n := testing.AllocsPerRun(10, func() { _, _ = f.Parse(data) }); n > 20 {
				t.Errorf("%s takes %v allocations to refuse %d bytes of %q", f, n, len(data), data[0])
			}
		}
	}
}

// The active set stays, whatever is wrong with a body.
func TestBadInput(t *testing.T) {
	own := func(f Format) []byte { // of the format's own records
		if layouts[f].recordOf(48) < 0 {
			return written(f, fullSet(size256))
		}
		return written(f, fullSet(size128))
	}
	for _, f := range Formats() {
		if !f.Readable() {
			continue
		}
		good := own(f)
		bad := map[string][]byte{
			"empty":            nil,
			"too long":         append(slices.Clone(good), 'A'),
			"newline too many": append(slices.Clone(good), '\n'),
			"CRLF too many":    append(slices.Clone(good), "\r\n"...),
			"first byte gone":  good[1:],
			"twice":            slices.Concat(good, good), // so each name appears twice
		}
		if f == HAProxy {
			bad["truncated"] = good[:len(good)-2] // truncated within the data: the line end may be missing
		} else {
			bad["truncated"] = good[:len(good)-1]
		}
		for _, other := range Formats() {
			body := own(other)
			if !f.Text() && !other.Text() && layouts[f].recordOf(len(body)/4) >= 0 {
				continue // records of one length are indistinguishable
			}
			if f != other {
				bad["the body of "+other.String()] = body
			}
		}
		for name, data := range bad {
			t.Run(f.String()+"/"+name, func(t *testing.T) {
				r := ringWith(t, testSet(size128, 9))
				before := r.Description()
				_, err := r.Load(t.Context(), f, data, Update{Source: SourceAPI})
				if len(issuesOf(t, err)) == 0 {
					t.Error("taken")
				}
				if after := r.Description(); !same(before, after) {
					t.Errorf("%v became %v", before, after)
				}
			})
		}
		if _, err := ringWith(t, testSet(size128, 9)).Load(t.Context(), f, good, Update{Source: SourceAPI}); err != nil {
			t.Errorf("%s: the good body: %v", f, err)
		}
	}
}

func TestLoadWhatIsActive(t *testing.T) {
	for _, size := range []int{size128, size256} {
		for _, f := range Formats() {
			active := fullSet(size)
			r := ringWith(t, active)
			unchanged := func(what string, data []byte) {
				t.Helper()
				before := r.Description()
				d, err := r.Load(t.Context(), f, data, Update{Source: SourceAPI})
				if err != nil || !same(before, d) {
					t.Errorf("%s of %d: %s changed the set: %v", f, 8*size, what, err)
				}
			}
			data := written(f, active)
			if !f.Readable() {
				before := r.Description()
				if _, err := r.Load(t.Context(), f, data, Update{Source: SourceAPI}); !errors.Is(err, ErrNotReadable) {
					t.Errorf("%s: %v", f, err)
				}
				if !same(before, r.Description()) {
					t.Errorf("%s changed the set", f)
				}
				continue
			}
			unchanged("what it makes of the set", data)
			if f == HAProxy {
				unchanged("CRLF", bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n")))
			}
			if !f.OneKey() {
				continue
			}
			for i := range active.len() {
				file, err := f.AppendKey(nil, active, i)
				if err != nil {
					t.Fatal(err)
				}
				d, err := r.Load(t.Context(), f, file, Update{Source: SourceAPI})
				if err != nil || len(d.Keys) != 1 || d.Keys[0].Name != ordered(active)[i].Name() {
					t.Errorf("%s: file %d: %v, %v", f, i, d.Keys, err)
				}
				r = ringWith(t, active)
			}
		}
	}
}

// A set that a format cannot express is replaced by one in that format.
func TestLoadOverWhatCannotBeCarried(t *testing.T) {
	r := NewRing(clock(), twiceADay)
	if d, err := r.Load(t.Context(), HAProxy, written(HAProxy, fullSet(size128)), Update{Source: SourceAPI}); err != nil || len(d.Keys) != 4 {
		t.Errorf("%v, %v", d.Keys, err)
	}
}

func TestAppendKey(t *testing.T) {
	set := fullSet(size128)
	for _, f := range Formats() {
		if !f.OneKey() {
			if dst, err := f.AppendKey([]byte("dst"), set, 0); !errors.Is(err, ErrNoSuchKey) || string(dst) != "dst" {
				t.Errorf("%s: %q, %v", f, dst, err)
			}
			continue
		}
		var files []byte
		for i := range set.len() {
			before := len(files)
			var err error
			if files, err = f.AppendKey(files, set, i); err != nil {
				t.Fatal(err)
			}
			if one, err := f.Parse(files[before:]); err != nil || len(one.Keys) != 1 || one.Keys[0].Name() != ordered(set)[i].Name() {
				t.Errorf("%s: file %d is %v, %v", f, i, one, err)
			}
		}
		if !bytes.Equal(files, written(f, set)) {
			t.Errorf("%s: the files one after another are not the set", f)
		}
		for _, i := range []int{-1, 4, math.MaxInt, math.MinInt} {
			if dst, err := f.AppendKey([]byte("dst"), set, i); !errors.Is(err, ErrNoSuchKey) || string(dst) != "dst" {
				t.Errorf("%s: file %d: %q, %v", f, i, dst, err)
			}
		}
	}
}

// HAProxy's file has at least three lines and repeats keys for them. Reading it returns
// the original set, except keys of another size than the current one.
func TestHAProxyFilesUp(t *testing.T) {
	next := func(set Set) Set { return withNext(set, testKey(9, size128)) }
	for _, test := range []struct {
		set  Set
		want []int // the keys of its lines
	}{
		{testSet(size128, 1), []int{1, 1, 1}},
		{next(testSet(size128, 1)), []int{1, 1, 9}},
		{testSet(size128, 1, 2), []int{2, 1, 2}},
		{next(testSet(size128, 1, 2)), []int{2, 1, 9}},
		{testSet(size128, 1, 2, 3), []int{3, 2, 1, 3}},
		{testSet(size128, 1, 2, 3, 4), []int{4, 3, 2, 1, 3}},
		{next(testSet(size128, 1, 2, 3)), []int{3, 2, 1, 9}},
	} {
		data := written(HAProxy, test.set)
		var want []byte
		for _, n := range test.want {
			k := testKey(n, size128)
			name := k.Name()
			want = append(base64.StdEncoding.AppendEncode(want, k.AppendHMACSecret(k.AppendAESKey(name[:]))), '\n')
		}
		if !bytes.Equal(data, want) {
			t.Errorf("%v is not written as %v", test.set, test.want)
		}
		set, err := HAProxy.Parse(data)
		if err != nil || !set.equal(&test.set) {
			t.Errorf("%v is read as %v, %v", test.set, set, err)
		}
		r := ringWith(t, test.set)
		before := r.Description()
		if d, err := r.Load(t.Context(), HAProxy, data, Update{Source: SourceAPI}); err != nil || !same(before, d) {
			t.Errorf("pushing what was written of %v makes %v, %v", test.set, d, err)
		}
	}
}

// H2O encrypts with the current key at any time, by the rule of
// find_ticket_for_encryption in its src/ssl.c: of the entries, sorted by not_before
// from the latest on, the first whose not_before has passed, if its not_after has not.
func TestH2OEncryptsWithCurrent(t *testing.T) {
	set := fullSet(size256)
	type entry struct {
		name                string
		notBefore, notAfter int64
	}
	var entries []entry
	for text := range strings.SplitSeq(strings.TrimPrefix(string(written(H2O, set)), "- "), "\n- ") {
		var e entry
		var cipher, hash, key string
		if _, err := fmt.Sscanf(text, "name: %s\n  cipher: %s\n  hash: %s\n  key: %s\n  not_before: %d\n  not_after: %d",
			&e.name, &cipher, &hash, &key, &e.notBefore, &e.notAfter); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return int(b.notBefore - a.notBefore) })
	for _, now := range []string{"1971-01-01", "2026-01-01", "2100-01-01"} {
		at, err := time.Parse(time.DateOnly, now)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(entries, func(e entry) bool { return e.notBefore <= at.Unix() })
		if i < 0 || entries[i].notAfter < at.Unix() || entries[i].name != set.Keys[0].Name().String() {
			t.Errorf("%s: entry %d of %v encrypts", now, i, entries)
		}
	}
	if len(entries) != set.len() {
		t.Errorf("%d entries", len(entries))
	}
}

// If a buffer is too small, Append allocates one that is large enough before it writes
// the first secret.
func TestAppendLeavesNoSecretsBehind(t *testing.T) {
	for _, f := range Formats() {
		for _, size := range []int{size128, size256} {
			small := make([]byte, 0, 60)
			set := withNext(testSet(size, 1, 2), testKey(3, size))
			data := f.Append(small, set)
			if !bytes.Equal(small[:60], make([]byte, 60)) {
				t.Errorf("%s left %x", f, small[:60])
			}
			grown := 0
			for _, k := range set.all() {
				grown += layouts[f].size(k, set.Keys[0])
			}
			if len(data) > grown || (f != H2O && len(data) != grown) {
				t.Errorf("%s: %d bytes written, room made for %d", f, len(data), grown)
			}
		}
	}
	longest := make([]int, MaxKeys)
	for i := range longest {
		longest[i] = i
	}
	if data, room := written(H2O, testSet(size256, longest...)), MaxKeys*layouts[H2O].size(testKey(1, size256), testKey(1, size256)); len(data) > room {
		t.Errorf("h2o: %d bytes written, room made for %d", len(data), room)
	}
}

func FuzzFormats(f *testing.F) {
	formats := Formats()
	f.Fuzz(func(t *testing.T, number uint8, data []byte) {
		format := formats[int(number)%len(formats)]
		input := bytes.Clone(data)
		set, err := format.Parse(data)
		if !bytes.Equal(data, input) {
			t.Fatal("the data was changed")
		}
		if err != nil {
			if format.Readable() {
				issuesOf(t, err)
			} else if !errors.Is(err, ErrNotReadable) {
				t.Fatal(err)
			}
			return
		}
		if n := set.len(); n < 1 || n > MaxKeys {
			t.Fatalf("%d keys", n)
		}
		again := format.Append(nil, set)
		if format == Lighttpd { // the times of its keys are not read
			for i := 0; i < len(data); i += len(again) / set.len() {
				copy(data[i:], lighttpdPrefix)
			}
		}
		if !format.Text() && !bytes.Equal(again, data) {
			t.Fatalf("read %x, wrote %x", data, again)
		}
		reread, err := format.Parse(again)
		if err != nil || !reread.equal(&set) {
			t.Fatalf("wrote %x, read %v, not %v: %v", again, reread, set, err)
		}
		for _, other := range formats { // even of sets that Validate would reject
			other.Append(nil, set)
		}
		issuesOf(t, set.Validate())
		set.Wipe()
		for _, k := range set.all() {
			if !wiped(k) {
				t.Fatalf("%v is not wiped", k)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, f := range []Format{ATS, HAProxy} {
		b.Run(f.String(), func(b *testing.B) {
			data := written(f, fullSet(size128))
			b.ReportAllocs()
			for b.Loop() {
				set, err := f.Parse(data)
				if err != nil {
					b.Fatal(err)
				}
				set.Wipe()
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	set := fullSet(size256)
	for _, f := range []Format{ATS, NGINX, HAProxy, H2O, Go} {
		b.Run(f.String(), func(b *testing.B) {
			buf := make([]byte, 0, 4<<10)
			b.ReportAllocs()
			for b.Loop() {
				clear(f.Append(buf, set))
			}
		})
	}
}

package keys

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
)

// hexBytes are written as hex in JSON.
type hexBytes []byte

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

type keyVector struct {
	Name       hexBytes `json:"name"`
	HMACSecret hexBytes `json:"hmac_secret"`
	AESKey     hexBytes `json:"aes_key"`
}

func (v keyVector) key() Key { return NewKey(v.Name, v.HMACSecret, v.AESKey) }

type setVector struct {
	Name    string              `json:"name"`
	Keys    []keyVector         `json:"keys"`
	Next    *keyVector          `json:"next"`
	Formats map[string]hexBytes `json:"formats"`
}

func (v setVector) set() Set {
	var set Set
	for _, k := range v.Keys {
		set.Keys = append(set.Keys, k.key())
	}
	if v.Next != nil {
		set.Next = new(v.Next.key())
	}
	return set
}

// readVectors returns testdata/vectors.json, which testdata/README.md
// describes.
func readVectors(t testing.TB) []setVector {
	t.Helper()
	file, err := os.Open("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var vectors []setVector
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	return vectors
}

func TestVectors(t *testing.T) {
	for _, v := range readVectors(t) {
		set := v.set()
		tested := 0
		for _, f := range Formats() {
			t.Run(v.Name+"/"+f.String(), func(t *testing.T) {
				want := v.Formats[f.String()]
				tested++
				if got := f.Append([]byte("dst "), set); len(want) == 0 || !bytes.Equal(got, slices.Concat([]byte("dst "), want)) {
					t.Errorf("wrote %x, want %x", got, want)
				}
			})
		}
		if tested != len(v.Formats) {
			t.Errorf("%s: tested %d of %d formats", v.Name, tested, len(v.Formats))
		}
	}
}

// What is derived is what OpenSSL derives.
func TestOpenSSLDerives(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("openssl is not installed")
		}
		t.Skip("openssl is not installed; make test installs it on Debian as root")
	}
	k := testKey(1, size256)
	secret := hex.EncodeToString(k.AppendAESKey(k.AppendHMACSecret(nil)))
	for f, size := range map[Format]int{ATS: 2 * size128, H2O: 64, Go: 32} {
		want, err := exec.Command(openssl, "kdf", "-binary", "-keylen", strconv.Itoa(size), "-kdfopt", "digest:SHA256",
			"-kdfopt", "hexkey:"+secret, "-kdfopt", "hexsalt:"+k.Name().String(), "-kdfopt", "info:sessapi "+f.String()+" v1", "HKDF").Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := layouts[f].appendDerived(nil, k, size); !bytes.Equal(got, want) {
			t.Errorf("%s: what is derived is not what OpenSSL derives", f)
		}
	}
}

func TestParseReadsWhatAppendWrites(t *testing.T) {
	for _, v := range readVectors(t) {
		for _, f := range Formats() {
			t.Run(v.Name+"/"+f.String(), func(t *testing.T) {
				data := v.Formats[f.String()]
				set, err := f.Parse(data)
				if !f.Readable() {
					if !errors.Is(err, ErrNotReadable) {
						t.Error(err)
					}
					return
				}
				if f == NGINX && (len(data)%240 == 0 || len(data)%48 != 0 && len(data)%80 != 0) { // 5 keys of 48 bytes or 3 of 80, or both sizes
					if got := issuesOf(t, err); !slices.Equal(got, []string{"keys length"}) {
						t.Errorf("issues %q", got)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				want := v.set()
				got, all := ordered(set), ordered(want)
				if (set.Next != nil) != (f == HAProxy && want.Next != nil) || !slices.EqualFunc(got, all, func(a, b Key) bool { return a.Name() == b.Name() }) {
					t.Fatalf("read %v, wrote %v", set, want)
				}
				for i, k := range got {
					if own := k.Bits() == all[i].Bits(); own != k.Equal(all[i]) {
						t.Errorf("%v is not what was written", k)
					}
				}
			})
		}
	}
}

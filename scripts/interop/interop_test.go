// Other people's code reads what Verity signs: golang.org/x/mod's note and tlog packages.
package interop

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const golden = "../../core/tests/golden/proofs"

// cosigner checks C2SP tlog-cosignature v1 lines, which package note leaves to its callers.
type cosigner struct {
	name string
	id   uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.id }
func (c cosigner) Verify(text, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	head := fmt.Sprintf("cosignature/v1\ntime %d\n", binary.BigEndian.Uint64(sig))
	return ed25519.Verify(c.key, append([]byte(head), text...), sig[8:])
}

func newCosigner(t *testing.T, vkey string) cosigner {
	parts := strings.SplitN(vkey, "+", 3)
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 33 || key[0] != 4 {
		t.Fatalf("%s: no cosigner's key", vkey)
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	id := binary.BigEndian.Uint32(sum[:])
	if fmt.Sprintf("%08x", id) != parts[1] {
		t.Fatalf("%s: the key's id is %08x", vkey, id)
	}
	return cosigner{parts[0], id, key[1:]}
}

func read(t *testing.T, name string) []byte {
	data, err := os.ReadFile(filepath.Join(golden, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// verifiers are the log's, then the cosigners of the policy.
func verifiers(t *testing.T) []note.Verifier {
	var all []note.Verifier
	for _, line := range strings.Split(string(read(t, "policy")), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[0] == "log":
			v, err := note.NewVerifier(words[1])
			if err != nil {
				t.Fatal(err)
			}
			all = append([]note.Verifier{v}, all...)
		case len(words) == 3 && words[0] == "witness":
			all = append(all, newCosigner(t, words[2]))
		}
	}
	return all
}

func TestCheckpointAndInclusion(t *testing.T) {
	proof := string(read(t, "head.tlog-proof"))
	body, signed, found := strings.Cut(proof, "\n\n")
	if !found {
		t.Fatal("no empty line before the checkpoint")
	}
	all := verifiers(t)
	opened, err := note.Open([]byte(signed), note.VerifierList(all...))
	if err != nil {
		t.Fatal(err)
	}
	if len(opened.Sigs) != 3 || len(opened.UnverifiedSigs) != 0 {
		t.Fatalf("%d signatures verified, %d not", len(opened.Sigs), len(opened.UnverifiedSigs))
	}
	lines := strings.Split(opened.Text, "\n")
	if lines[0] != all[0].Name() {
		t.Fatalf("origin %q", lines[0])
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		t.Fatal(err)
	}
	head := strings.Split(body, "\n")
	if head[0] != "c2sp.org/tlog-proof@v1" {
		t.Fatalf("header %q", head[0])
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(head[1], "index "), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var path tlog.RecordProof
	for _, line := range head[2:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			t.Fatal(err)
		}
		path = append(path, hash)
	}
	leaf, err := hex.DecodeString(strings.TrimSpace(string(read(t, "head.leaf"))))
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.CheckRecord(path, size, root, index, tlog.RecordHash(leaf)); err != nil {
		t.Fatal(err)
	}
	leaf[0] ^= 1
	if tlog.CheckRecord(path, size, root, index, tlog.RecordHash(leaf)) == nil {
		t.Fatal("another record is in the log too")
	}
	forged := bytes.Replace([]byte(signed), []byte("\n"+lines[1]+"\n"), []byte("\n1"+lines[1]+"\n"), 1)
	if _, err := note.Open(forged, note.VerifierList(all...)); err == nil {
		t.Fatal("a forged head opens")
	}
}

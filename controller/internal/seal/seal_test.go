package seal

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestSealedOpensForItsRecordAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seal.key")
	if _, err := LoadKey(path); !errors.Is(err, ErrNoKey) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte("what a killed process left"), 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := CreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	if _, err := CreateKey(path); !errors.Is(err, fs.ErrExist) {
		t.Fatal("made over an old key", err)
	}
	key, err := LoadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	record := []byte("secret/a/user_data")
	sealed, err := made.Seal([]byte("hush"), record)
	if err != nil {
		t.Fatal(err)
	}
	twice, _ := made.Seal([]byte("hush"), record)
	if bytes.Contains(sealed, []byte("hush")) || bytes.Equal(sealed, twice) {
		t.Fatal("not sealed, or the same nonce twice")
	}
	if plain, err := key.Open(sealed, record); err != nil || string(plain) != "hush" {
		t.Fatal(plain, err)
	}
	other, _ := NewKey(make([]byte, 32))
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, try := range map[string]func() ([]byte, error){
		"another record": func() ([]byte, error) { return key.Open(sealed, []byte("secret/b/user_data")) },
		"another key":    func() ([]byte, error) { return other.Open(sealed, record) },
		"changed":        func() ([]byte, error) { return key.Open(changed, record) },
		"empty":          func() ([]byte, error) { return key.Open(nil, record) },
		"short":          func() ([]byte, error) { return key.Open([]byte{1, 2}, record) },
	} {
		if _, err := try(); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyFileOfOthersRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seal.key")
	if _, err := CreateKey(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(path); err == nil {
		t.Error("a readable key file was taken")
	}
	if err := errors.Join(os.WriteFile(path, []byte("short\n"), 0o600), os.Chmod(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(path); err == nil {
		t.Error("a broken key file was taken")
	}
}

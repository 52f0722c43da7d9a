// Package seal encrypts what must not lie open in the store: the CA's key and secrets of objects. The key is in a file beside the data, readable
// by the controller's user alone; who has only the store, or a backup of it, has nothing. Several controllers on one external store share the file.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keyBytes is the length of the key: AES-256.
const keyBytes = 32

// version begins every sealed value.
const version = 1

// ErrNoKey says that there is no key file.
var ErrNoKey = errors.New("seal: no key file")

// ErrBroken says that a value cannot be opened: another key, another record, or changed.
var ErrBroken = errors.New("seal: sealed with another key, for another record, or changed")

// Key seals and opens. It is safe for concurrent use.
type Key struct{ aead cipher.AEAD }

// LoadKey reads a key file. ErrNoKey when there is none; a file that others can read is refused.
func LoadKey(path string) (*Key, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w at %s", ErrNoKey, path)
	}
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file %s: mode is %04o, others could read it: chmod 0600 it", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != keyBytes {
		return nil, fmt.Errorf("key file %s: not a key", path)
	}
	return NewKey(raw)
}

// CreateKey makes a key file with a random key, durably and whole or not at all, or returns fs.ErrExist.
func CreateKey(path string) (*Key, error) {
	raw := make([]byte, keyBytes)
	_, _ = rand.Read(raw)  // never fails
	draft := path + ".new" // what an interrupted try has left is no key of anything
	f, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	_, err = f.WriteString(base64.RawURLEncoding.EncodeToString(raw) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(draft, path) // unlike a rename it replaces nothing
	}
	err = errors.Join(err, os.Remove(draft))
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	return NewKey(raw)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// NewKey uses 32 bytes as the key.
func NewKey(raw []byte) (*Key, error) {
	if len(raw) != keyBytes {
		return nil, fmt.Errorf("seal: a key has %d bytes, not %d", keyBytes, len(raw))
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return &Key{aead: aead}, nil
}

// Seal encrypts plain. aad is the key, in the store, of the record that it will stand in: sealed, it opens nowhere else.
func (k *Key) Seal(plain, aad []byte) ([]byte, error) {
	return k.aead.Seal([]byte{version}, nil, plain, aad), nil
}

// Open returns what was sealed with the same aad, or ErrBroken.
func (k *Key) Open(sealed, aad []byte) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != version {
		return nil, ErrBroken
	}
	plain, err := k.aead.Open(nil, nil, sealed[1:], aad)
	if err != nil {
		return nil, ErrBroken
	}
	return plain, nil
}

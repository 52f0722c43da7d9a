// Package enrol makes this node known to a cluster and keeps its identity: the key, which never leaves the node, the certificate, which is short-lived and
// renewed, and the CA by which the controller is known.
package enrol

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Token is a join token: lq1.<id>.<secret>.<SHA-256 of the CA certificate, hex>.
type Token struct {
	text   string
	CAHash [sha256.Size]byte
}

// ErrToken says that a text is no join token.
var ErrToken = errors.New("not a join token: it looks like lq1.<id>.<secret>.<64 hex digits>")

// ParseToken reads a token's text.
func ParseToken(text string) (Token, error) {
	t := Token{text: strings.TrimSpace(text)}
	parts := strings.Split(t.text, ".")
	if len(parts) != 4 || parts[0] != "lq1" || parts[1] == "" || parts[2] == "" {
		return Token{}, ErrToken
	}
	hash, err := hex.DecodeString(parts[3])
	if err != nil || len(hash) != sha256.Size {
		return Token{}, ErrToken
	}
	copy(t.CAHash[:], hash)
	return t, nil
}

// String hides the secret, so that a token that is logged by mistake is worth nothing.
func (t Token) String() string { return "lq1.[hidden]" }

// ReadToken reads a token from a file, or from in when the path is "-".
func ReadToken(path string, in io.Reader) (Token, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return Token{}, fmt.Errorf("join token: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, 4096))
	if err != nil {
		return Token{}, fmt.Errorf("join token: %w", err)
	}
	return ParseToken(string(data))
}

package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
)

// ErrToken says that a text is no join token.
var ErrToken = errors.New("pki: not a join token")

// JoinToken is what an agent shows to enrol. Its text is lq1.<id>.<secret>.<CA hash>.
type JoinToken struct {
	// ID names the token's record; not secret.
	ID string
	// Secret proves that its bearer was given it: 32 random bytes, base64url.
	Secret string
	// CAHash is CA.Hash: by it the agent knows the controller.
	CAHash string
}

const tokenVersion = "lq1"

// NewJoinToken makes a token with a random secret.
func NewJoinToken(id, caHash string) JoinToken {
	return JoinToken{ID: id, Secret: NewSecret(), CAHash: caHash}
}

// NewSecret is 32 random bytes in base64url.
func NewSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// String is the token's text; it is secret.
func (t JoinToken) String() string {
	return strings.Join([]string{tokenVersion, t.ID, t.Secret, t.CAHash}, ".")
}

// SecretSHA256 is what JoinTokenRecord keeps of the secret.
func (t JoinToken) SecretSHA256() []byte {
	sum := sha256.Sum256([]byte(t.Secret))
	return sum[:]
}

// Matches compares the secret with a record's hash in constant time.
func (t JoinToken) Matches(secretSHA256 []byte) bool {
	return subtle.ConstantTimeCompare(t.SecretSHA256(), secretSHA256) == 1
}

// ParseJoinToken reads a token's text, or returns ErrToken.
func ParseJoinToken(text string) (JoinToken, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 4 || parts[0] != tokenVersion || len(parts[1]) > 64 || parts[1] == "" || strings.Contains(parts[1], "/") {
		return JoinToken{}, ErrToken
	}
	if secret, err := base64.RawURLEncoding.DecodeString(parts[2]); err != nil || len(secret) != 32 {
		return JoinToken{}, ErrToken
	}
	if hash, err := hex.DecodeString(parts[3]); err != nil || len(hash) != sha256.Size {
		return JoinToken{}, ErrToken
	}
	return JoinToken{ID: parts[1], Secret: parts[2], CAHash: parts[3]}, nil
}

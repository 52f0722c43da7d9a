package domain

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	defaultPage = 50
	maxPage     = 1000
	queryHash   = 8 // bytes of it in a token
)

// PageSize is the number of rows that a request asks for.
func PageSize(v *Violations, size int32) int {
	switch {
	case size < 0 || size > maxPage:
		v.Add("page_size", "must be 1-%d, or 0 for %d", maxPage, defaultPage)
	case size == 0:
		return defaultPage
	}
	return int(size)
}

// PageToken makes the token that goes on after an id. query is the list request without its page fields: the token is good for no other query.
func PageToken(query proto.Message, after string) string {
	h := hashOf(query)
	return base64.RawURLEncoding.EncodeToString(append(h[:queryHash], after...))
}

// ReadPageToken is the id to go on after; "" for no token. Malformed, or made for another query: BAD_PAGE_TOKEN.
func ReadPageToken(query proto.Message, token string) (string, error) {
	if token == "" {
		return "", nil
	}
	bad := func(why string) error {
		return fault.New(metav1.Reason_REASON_BAD_PAGE_TOKEN, "page_token: %s", why).
			WithRemedy("begin again without page_token, and keep the other fields the same on every page")
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) <= queryHash || !IsID(string(raw[queryHash:])) {
		return "", bad("malformed")
	}
	h := hashOf(query)
	if !strings.HasPrefix(string(raw), string(h[:queryHash])) {
		return "", bad("made for another query")
	}
	return string(raw[queryHash:]), nil
}

func hashOf(m proto.Message) [sha256.Size]byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil { // invalid UTF-8 only, which the transport refuses
		b = []byte(err.Error())
	}
	return sha256.Sum256(b)
}

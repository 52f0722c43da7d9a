package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	"sync/atomic"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// AdminPrincipal is who calls with the admin token.
const AdminPrincipal = "admin"

// Tokens knows the bearer tokens of the public port by their hashes. It is safe for concurrent use.
type Tokens struct {
	// Remedy says where a caller finds a token.
	Remedy string
	admin  atomic.Pointer[[]byte]
}

// SetAdmin replaces the SHA-256 of the admin token; empty refuses everybody.
func (t *Tokens) SetAdmin(sha256 []byte) { t.admin.Store(&sha256) }

// principal is who a header's token belongs to, or UNAUTHENTICATED.
func (t *Tokens) principal(header http.Header) (string, error) {
	given := header.Get("Authorization")
	if given == "" {
		return "", t.refuse("this call needs a token, and carries none")
	}
	scheme, token, ok := strings.Cut(given, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", t.refuse("the Authorization header is not of the form \"Bearer TOKEN\"")
	}
	// Hashes of equal length are compared, in a time that tells nothing of either.
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	if admin := t.admin.Load(); admin != nil && len(*admin) == len(sum) && subtle.ConstantTimeCompare(sum[:], *admin) == 1 {
		return AdminPrincipal, nil
	}
	return "", t.refuse("the token is not known")
}

func (t *Tokens) refuse(message string) error {
	return fault.New(metav1.Reason_REASON_UNAUTHENTICATED, "%s", message).WithRemedy("%s", t.Remedy)
}

// gate admits calls with a token, before their body is read.
func (t *Tokens) gate(ctx context.Context, _ connect.Spec, _ connect.Peer, header http.Header) (context.Context, error) {
	who, err := t.principal(header)
	if err != nil {
		c := callOf(ctx)
		c.err, c.code = err, codeName(fault.From(err).Code)
		return ctx, connectError(ctx, err)
	}
	callOf(ctx).principal = who
	return caller.WithPrincipal(ctx, who), nil
}

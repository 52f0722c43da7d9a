// Package caller carries who calls through a context: on the public port a principal, on the agent port a node. The server's interceptors set it
// after they have checked a token or a certificate; services only read it.
package caller

import "context"

type principalKey struct{}

type nodeKey struct{}

// WithPrincipal says who calls on the public port, for example "admin".
func WithPrincipal(ctx context.Context, principal string) context.Context {
	return context.WithValue(ctx, principalKey{}, principal)
}

// Principal is who calls on the public port; "anonymous" when nobody said.
func Principal(ctx context.Context) string {
	if p, ok := ctx.Value(principalKey{}).(string); ok && p != "" {
		return p
	}
	return "anonymous"
}

// WithNode says which node's certificate the call on the agent port came with.
func WithNode(ctx context.Context, nodeID string) context.Context {
	return context.WithValue(ctx, nodeKey{}, nodeID)
}

// Node is the id of the calling node; "" when the call did not come with a node's certificate.
func Node(ctx context.Context) string {
	id, _ := ctx.Value(nodeKey{}).(string)
	return id
}

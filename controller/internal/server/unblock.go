package server

import (
	"io"
	"net/http"
	"sync/atomic"
)

// unblocking lets a call's end reach a client that sends nothing. The proxy keeps Close from the request's body, and the transport tells nobody that a
// connection broke while it waits for more of a body: a console whose leader died stayed open until a key was pressed.
type unblocking struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (u unblocking) RoundTrip(r *http.Request) (*http.Response, error) {
	unblock, ok := r.Context().Value(unblockKey{}).(func())
	if !ok || r.Body == nil || r.Body == http.NoBody {
		return u.next.RoundTrip(r)
	}
	with := *r
	with.Body = &breakable{body: r.Body, unblock: unblock}
	return u.next.RoundTrip(&with)
}

// breakable is a body whose Close ends a Read that waits.
type breakable struct {
	body    io.ReadCloser
	unblock func()
	over    atomic.Bool // read to its end: there is nothing to break, and the client's connection lives on
}

func (b *breakable) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil {
		b.over.Store(true)
	}
	return n, err
}

func (b *breakable) Close() error {
	if !b.over.Load() {
		b.unblock()
	}
	return b.body.Close()
}

// Package fetch reads images from addresses that users name. A user of the API must not reach through an agent what only the agent's host can reach; so
// the address is looked at when it is dialled, after names are resolved and for each redirect: only public ones are, and those that the operator allows.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	maxRedirects  = 5
	dialTimeout   = 10 * time.Second
	answerTimeout = 30 * time.Second
	// silence is how long a source may send nothing.
	silence = time.Minute
)

// Fetcher opens sources.
type Fetcher struct {
	client  *http.Client
	silence time.Duration
}

// New makes a fetcher. allowed are networks that may be asked although they are not public.
func New(allowed []netip.Prefix) *Fetcher {
	d := &net.Dialer{Timeout: dialTimeout, Control: func(_, address string, _ syscall.RawConn) error { return check(address, allowed) }}
	return &Fetcher{silence: silence, client: &http.Client{
		Transport: &http.Transport{ // no proxy: it would dial in our place
			DialContext: d.DialContext, TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: answerTimeout,
			DisableCompression: true, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(next *http.Request, before []*http.Request) error {
			from := before[len(before)-1].URL
			switch {
			case len(before) > maxRedirects:
				return refused("more than %d redirects", maxRedirects)
			case next.URL.Scheme != from.Scheme && (from.Scheme != "http" || next.URL.Scheme != "https"):
				return refused("%s redirects from %s to %s", from.Host, from.Scheme, next.URL.Scheme)
			}
			return nil
		},
	}}
}

func refused(format string, args ...any) error {
	return fault.New(metav1.Reason_REASON_SOURCE_REFUSED, format, args...).WithRemedy("use an address that answers by itself, with http or https")
}

// check refuses an address, as host:port, that is not public and not allowed.
func check(address string, allowed []netip.Prefix) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return refused("%s is no address", address)
	}
	addr := ap.Addr().Unmap().WithZone("")
	for _, p := range allowed {
		if p.Contains(addr) {
			return nil
		}
	}
	if public(addr) {
		return nil
	}
	return fault.New(metav1.Reason_REASON_SOURCE_REFUSED, "%s is not a public address", addr).
		WithRemedy("upload the image, or let the operator add its network to image_networks in the agent's configuration")
}

// notPublic are the networks of IANA's special-purpose registries that netip has no word for.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

func public(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// Open asks for the content of a URL. size is what the source announces, -1 = nothing. Whoever reads must close.
func (f *Fetcher) Open(ctx context.Context, source string) (content io.ReadCloser, size int64, err error) {
	u, err := url.Parse(source)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, 0, refused("%q is no http or https URL without a user", source)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		cancel(nil)
		return nil, 0, refused("%v", err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "limiquantix-agent")
	r, err := f.client.Do(req) //nolint:bodyclose // the caller does
	if err != nil {
		cancel(nil)
		return nil, 0, explain(u, err)
	}
	if r.StatusCode != http.StatusOK {
		_ = r.Body.Close()
		cancel(nil)
		err := fault.New(metav1.Reason_REASON_SOURCE_UNAVAILABLE, "%s answers %s", u.Host, r.Status)
		if r.StatusCode/100 == 4 && r.StatusCode != http.StatusRequestTimeout && r.StatusCode != http.StatusTooManyRequests {
			err = fault.New(metav1.Reason_REASON_SOURCE_REFUSED, "%s answers %s", u.Host, r.Status).WithRemedy("correct the URL")
		}
		return nil, 0, err
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		_ = r.Body.Close()
		cancel(nil)
		return nil, 0, refused("%s sends the content encoded as %q", u.Host, e)
	}
	b := &body{ReadCloser: r.Body, host: u.Host, cancel: cancel, limit: f.silence}
	b.timer = time.AfterFunc(f.silence, func() { cancel(errSilent) })
	return b, r.ContentLength, nil
}

func explain(u *url.URL, err error) error {
	var f *fault.Error
	if errors.As(err, &f) { // a dial or a redirect that was refused
		return f
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) && strings.Contains(err.Error(), "context") {
		return fault.New(metav1.Reason_REASON_CANCELLED, "fetch from %s: %w", u.Host, err)
	}
	return fault.New(metav1.Reason_REASON_SOURCE_UNAVAILABLE, "%s does not answer: %w", u.Host, err)
}

var errSilent = errors.New("it sends nothing any more")

// body ends when the source is silent for too long.
type body struct {
	io.ReadCloser
	host   string
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.timer.Reset(b.limit)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fault.New(metav1.Reason_REASON_SOURCE_UNAVAILABLE, "%s broke off: %w", b.host, err)
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// Networks reads what may be asked although it is not public.
func Networks(cidrs []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range cidrs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%q is no network, as in 10.1.0.0/16", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

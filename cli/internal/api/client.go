// Package api is lqctl's connection to a controller.
package api

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1/operationv1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// DefaultServer is where a controller listens unless told otherwise.
const DefaultServer = "http://127.0.0.1:8080"

// maxAnswer bounds one message of a controller, in bytes.
const maxAnswer = 64 << 20

// Target says which controller to talk to, and as whom.
type Target struct {
	Server    string // http or https URL
	Token     string // bearer token; empty = none
	CAFile    string // PEM certificates to trust in place of the system's; empty = the system's
	UserAgent string
}

// Client calls one controller. It is safe for concurrent use.
type Client struct {
	VMs        computev1connect.VMServiceClient
	Nodes      computev1connect.NodeServiceClient
	Operations operationv1connect.OperationServiceClient
	Images     storagev1connect.ImageServiceClient
	Pools      storagev1connect.StoragePoolServiceClient
	Volumes    storagev1connect.VolumeServiceClient
	Snapshots  storagev1connect.SnapshotServiceClient
	Networks   networkv1connect.VirtualNetworkServiceClient
	Ports      networkv1connect.PortServiceClient
	Groups     networkv1connect.SecurityGroupServiceClient

	http   *http.Client
	target Target
}

// New makes a client; it dials at the first call.
func New(t Target) (*Client, error) {
	u, err := CheckServer(t.Server)
	if err != nil {
		return nil, err
	}
	if t.Token != "" && u.Scheme == "http" && !IsLoopback(u.Hostname()) {
		return nil, fmt.Errorf("server %q is not on this machine and not https: the token would be sent in the clear", t.Server)
	}
	tr, err := transport(u.Scheme, t.CAFile)
	if err != nil {
		return nil, err
	}
	c := &Client{target: t, http: &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a token goes to nobody else
	}}
	base := u.Scheme + "://" + u.Host
	opts := []connect.ClientOption{connect.WithInterceptors(caller{t.Token, t.UserAgent}), connect.WithReadMaxBytes(maxAnswer)}
	c.VMs = computev1connect.NewVMServiceClient(c.http, base, opts...)
	c.Nodes = computev1connect.NewNodeServiceClient(c.http, base, opts...)
	c.Operations = operationv1connect.NewOperationServiceClient(c.http, base, opts...)
	c.Images = storagev1connect.NewImageServiceClient(c.http, base, opts...)
	c.Pools = storagev1connect.NewStoragePoolServiceClient(c.http, base, opts...)
	c.Volumes = storagev1connect.NewVolumeServiceClient(c.http, base, opts...)
	c.Snapshots = storagev1connect.NewSnapshotServiceClient(c.http, base, opts...)
	c.Networks = networkv1connect.NewVirtualNetworkServiceClient(c.http, base, opts...)
	c.Ports = networkv1connect.NewPortServiceClient(c.http, base, opts...)
	c.Groups = networkv1connect.NewSecurityGroupServiceClient(c.http, base, opts...)
	return c, nil
}

// Server is the URL that the client calls.
func (c *Client) Server() string { return c.target.Server }

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// CheckServer reads a controller's URL.
func CheckServer(server string) (*url.URL, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("server %q is not a URL like %s", server, DefaultServer)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return nil, fmt.Errorf("server %q holds more than scheme, host and port", server)
	}
	return u, nil
}

// IsLoopback reports whether a host is this machine by its name or address alone.
func IsLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// transport speaks HTTP/2 alone, also without TLS: consoles need streams both ways.
func transport(scheme, caFile string) (*http.Transport, error) {
	protocols := &http.Protocols{}
	tr := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		Protocols:           protocols,
		// A peer that fell silent ends even an endless stream.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 20 * time.Second, PingTimeout: 10 * time.Second},
	}
	if scheme == "http" {
		protocols.SetUnencryptedHTTP2(true)
		tr.Proxy = nil // a proxy would not speak it
		return tr, nil
	}
	protocols.SetHTTP2(true)
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.New("CA file " + caFile + " holds no PEM certificate")
		}
		tr.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return tr, nil
}

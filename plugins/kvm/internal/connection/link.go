package connection

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// link is one connection to libvirtd.
type link struct {
	libvirt *libvirt.Libvirt
	conn    net.Conn
}

// goodbye is how long libvirtd may take to hear that a connection ends.
const goodbye = time.Second

// dial connects. It returns when ctx ends, whatever libvirtd does.
func dial(ctx context.Context, socket, uri string) (*link, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	l := &link{libvirt.NewWithDialer(dialers.NewAlreadyConnected(conn)), conn}
	stop := l.cutAtEnd(ctx)
	if err = l.libvirt.ConnectToURI(libvirt.ConnectURI(uri)); err == nil && stop() {
		return l, nil
	}
	l.cut()
	if ctx.Err() != nil {
		err = fmt.Errorf("libvirtd does not answer: %w", context.Cause(ctx))
	}
	return nil, err
}

// cutAtEnd ends the connection, and with it every call under way, when ctx ends. The function it returns calls that off, and says whether it was in time.
func (l *link) cutAtEnd(ctx context.Context) func() bool { return context.AfterFunc(ctx, l.cut) }

func (l *link) cut() { _ = l.conn.Close() }

// close tells libvirtd, which would log an error otherwise, and ends the connection.
func (l *link) close() {
	_ = l.conn.SetDeadline(time.Now().Add(goodbye))
	_ = l.libvirt.Disconnect()
	l.cut()
}

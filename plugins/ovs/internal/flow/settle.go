package flow

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Settled waits until the datapath does what the bridge's flows say: what it has cached of earlier ones is gone.
//
// "revalidator/wait" answers when the pass over the caches ends that is under way, or the next one; but passes are half a second apart unless something changes, and the one under way
// may have begun before the change. So each of two waits is followed by a change of no consequence: the first pass ends after the switch knows of the change, and any pass that begins
// after it does what the new flows say.
func (c Conntrack) Settled(ctx context.Context, b Bridge) error {
	ctl, err := c.control(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = ctl.Close() }()
	of, err := b.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = of.Close() }()
	if err := of.nudge(); err != nil { // the switch has been through its main loop once since the change
		return err
	}
	for range 2 {
		if err := ctl.send("revalidator/wait"); err != nil {
			return err
		}
		if err := of.nudge(); err != nil {
			return err
		}
		_, err := ctl.receive("revalidator/wait")
		if err != nil && strings.Contains(err.Error(), "multiple") { // there are several datapaths: then all caches are emptied, which needs no waiting
			_, err = ctl.call("revalidator/purge")
			return err
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Numbers of OpenFlow 1.4.
const (
	ofVersion        = 5
	ofHello          = 0
	ofError          = 1
	ofGroupMod       = 15
	ofBarrierRequest = 20
	ofBarrierReply   = 21

	addOrModify = 0x8000     // Open vSwitch's own command for groups
	idleGroup   = 0x6c710001 // a group without buckets that no flow refers to
)

// ofConn is a connection with a bridge that speaks OpenFlow 1.4, as far as is needed here.
type ofConn struct {
	net.Conn
	xid uint32
}

func (b Bridge) dial(ctx context.Context) (*ofConn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", b.Socket)
	if err != nil {
		return nil, err
	}
	c := &ofConn{Conn: conn}
	err = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err == nil {
		err = c.send(ofHello, nil)
	}
	if err == nil {
		err = c.until(ofHello)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

// nudge changes the idle group, upon which the switch looks through its caches, and returns when the switch has taken it. What was absent is made by the first of the two messages and
// changed by the second: only a change counts.
func (c *ofConn) nudge() error {
	var body [8]byte
	binary.BigEndian.PutUint16(body[:], addOrModify)
	binary.BigEndian.PutUint32(body[4:], idleGroup)
	for range 2 {
		if err := c.send(ofGroupMod, body[:]); err != nil {
			return err
		}
	}
	if err := c.send(ofBarrierRequest, nil); err != nil {
		return err
	}
	return c.until(ofBarrierReply)
}

func (c *ofConn) send(kind uint8, body []byte) error {
	c.xid++
	msg := make([]byte, 8, 8+len(body))
	msg[0], msg[1] = ofVersion, kind
	binary.BigEndian.PutUint16(msg[2:], uint16(8+len(body))) //nolint:gosec // small
	binary.BigEndian.PutUint32(msg[4:], c.xid)
	_, err := c.Write(append(msg, body...))
	return err
}

// until reads messages up to one of a kind; an error is one.
func (c *ofConn) until(kind uint8) error {
	for {
		var head [8]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint16(head[2:]))
		if n < len(head) {
			return errors.New("OpenFlow: a message shorter than its header") //nolint:staticcheck // a name
		}
		body := make([]byte, n-len(head))
		if _, err := io.ReadFull(c, body); err != nil {
			return err
		}
		switch head[1] {
		case kind:
			return nil
		case ofError:
			return fmt.Errorf("OpenFlow: error %x", body) //nolint:staticcheck // a name
		}
	}
}

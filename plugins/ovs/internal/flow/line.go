package flow

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"
)

// Numbers of OpenFlow 1.4.
const (
	ofVersion        = 5
	ofHello          = 0
	ofError          = 1
	ofEchoRequest    = 2
	ofEchoReply      = 3
	ofFlowMod        = 14
	ofGroupMod       = 15
	ofMultiRequest   = 18
	ofMultiReply     = 19
	ofBarrierRequest = 20
	ofBarrierReply   = 21
	ofBundleControl  = 33
	ofBundleAdd      = 34

	multiMonitor = 16

	bundleOpen    = 0
	bundleClose   = 2
	bundleCommit  = 4
	bundleDiscard = 6
	bundleFlags   = 3 // atomic, in order

	addOrModify = 0x8000     // Open vSwitch's own command for groups
	idleGroup   = 0x6c710001 // a group without buckets that no flow refers to
)

// Line is a connection with a bridge that speaks OpenFlow 1.4, as far as is needed here: it changes flows, and tells of changes that did not come by it.
type Line struct {
	conn net.Conn
	told func(string)
	gone chan struct{} // closed when the connection has ended

	write  sync.Mutex // held while a message is written
	xid    uint32
	bundle uint32

	mu      sync.Mutex
	waiting map[uint32]chan answer
	stray   error // what the switch said of a message that nobody waits for
}

type answer struct {
	kind uint8
	body []byte
}

// callLimit is how long the switch may take to answer. Bundles of ten thousand flows take about a second.
const callLimit = 10 * time.Second

// Open connects. told is called with each change of flows that does not come by this line, and once when the line is lost; it must not block.
func (b Bridge) Open(ctx context.Context, told func(string)) (*Line, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", b.Socket)
	if err != nil {
		return nil, err
	}
	l := &Line{conn: conn, told: told, gone: make(chan struct{}), waiting: map[uint32]chan answer{}}
	go l.read()
	err = l.send(ofHello, l.next(), nil)
	if err == nil {
		err = l.watch(ctx)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("OpenFlow: %w", err) //nolint:staticcheck // a name
	}
	return l, nil
}

// Close ends the connection.
func (l *Line) Close() {
	_ = l.conn.Close()
	<-l.gone
}

// Lost reports whether the connection has ended.
func (l *Line) Lost() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

func (l *Line) next() uint32 {
	l.write.Lock()
	defer l.write.Unlock()
	l.xid++
	return l.xid
}

func message(kind uint8, xid uint32, body []byte) ([]byte, error) {
	if len(body) > math.MaxUint16-8 {
		return nil, fmt.Errorf("a message of %d bytes", len(body))
	}
	b := binary.BigEndian.AppendUint16(append(make([]byte, 0, 8+len(body)), ofVersion, kind), uint16(8+len(body))) //nolint:gosec // checked
	return append(binary.BigEndian.AppendUint32(b, xid), body...), nil
}

func (l *Line) send(kind uint8, xid uint32, body []byte) error {
	msg, err := message(kind, xid, body)
	if err != nil {
		return err
	}
	return l.put(msg)
}

func (l *Line) put(msgs []byte) error {
	l.write.Lock()
	defer l.write.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(callLimit)); err != nil {
		return err
	}
	_, err := l.conn.Write(msgs)
	return err
}

// call sends a message, after others that need no answer, and waits for what the switch answers.
func (l *Line) call(ctx context.Context, before []byte, kind uint8, body []byte) error {
	xid, ch := l.next(), make(chan answer, 1)
	l.mu.Lock()
	l.waiting[xid] = ch
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.waiting, xid)
		l.mu.Unlock()
	}()
	msg, err := message(kind, xid, body)
	if err != nil {
		return err
	}
	if err := l.put(append(before, msg...)); err != nil {
		return err
	}
	limit := time.NewTimer(callLimit)
	defer limit.Stop()
	select {
	case a := <-ch:
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.stray != nil { // it was said before, so it comes first
			err, l.stray = l.stray, nil
			return err
		}
		if a.kind == ofError {
			return refused(a.body)
		}
		return nil
	case <-l.gone:
		return io.ErrUnexpectedEOF
	case <-limit.C:
		return fmt.Errorf("no answer within %s", callLimit)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func refused(body []byte) error {
	if len(body) < 4 {
		return errors.New("the switch refuses")
	}
	return fmt.Errorf("the switch refuses: error %d/%d, %.64x", binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:]), body[4:])
}

// read takes what the switch says until the connection ends.
func (l *Line) read() {
	defer func() {
		_ = l.conn.Close()
		close(l.gone)
		l.told("the connection with the switch ended")
	}()
	for {
		var head [8]byte
		if _, err := io.ReadFull(l.conn, head[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(head[2:]))
		if n < len(head) {
			return
		}
		body := make([]byte, n-len(head))
		if _, err := io.ReadFull(l.conn, body); err != nil {
			return
		}
		xid := binary.BigEndian.Uint32(head[4:])
		switch head[1] {
		case ofEchoRequest:
			if l.send(ofEchoReply, xid, body) != nil {
				return
			}
		case ofMultiReply:
			l.changed(body)
			l.answer(xid, answer{head[1], body})
		case ofError, ofBarrierReply, ofBundleControl:
			l.answer(xid, answer{head[1], bytes.Clone(body)})
		}
	}
}

func (l *Line) answer(xid uint32, a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ch := l.waiting[xid]; ch != nil {
		delete(l.waiting, xid)
		ch <- a
	} else if a.kind == ofError && l.stray == nil {
		l.stray = refused(a.body)
	}
}

// watch asks to be told of changes. Those that come by this line are told without their content.
func (l *Line) watch(ctx context.Context) error {
	body := make([]byte, 0, 40)
	body = append(body, 0, multiMonitor, 0, 0, 0, 0, 0, 0)
	body = binary.BigEndian.AppendUint32(body, 1)              // number of the monitor
	body = binary.BigEndian.AppendUint32(body, math.MaxUint32) // any port
	body = binary.BigEndian.AppendUint32(body, math.MaxUint32) // any group
	body = append(body, 0, 0x0e, 0xff, 0)                      // what is added, removed, changed; in all tables
	body, err := appendMatch(body, "")
	if err != nil {
		return err
	}
	return l.call(ctx, nil, ofMultiRequest, body)
}

// Events of flows.
var events = map[uint16]string{0: "present", 1: "added", 2: "removed", 3: "changed", 6: "events were lost"}

// changed tells of changes that came by others.
func (l *Line) changed(body []byte) {
	if len(body) < 8 || binary.BigEndian.Uint16(body) != multiMonitor {
		return
	}
	for body = body[8:]; len(body) >= 8; {
		n, event := int(binary.BigEndian.Uint16(body)), binary.BigEndian.Uint16(body[2:])
		if n < 8 || n > len(body) {
			return
		}
		if what, ok := events[event]; ok {
			if n >= 24 {
				what = fmt.Sprintf("a flow was %s: table %d, cookie %#x", what, body[4], binary.BigEndian.Uint64(body[16:]))
			}
			l.told(what)
		}
		body = body[n:]
	}
}

// Change makes changes in one bundle: all of them or none.
func (l *Line) Change(ctx context.Context, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	l.write.Lock()
	l.bundle++
	id := l.bundle
	l.write.Unlock()
	l.mu.Lock()
	l.stray = nil
	l.mu.Unlock()
	control := func(kind uint16) []byte {
		return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(nil, id), kind), bundleFlags)
	}
	var msgs []byte
	for _, c := range changes {
		xid := l.next()
		mod, err := c.encode()
		if err != nil {
			return err
		}
		inner, err := message(ofFlowMod, xid, mod)
		if err != nil {
			return err
		}
		outer, err := message(ofBundleAdd, xid, append(append(binary.BigEndian.AppendUint32(nil, id), 0, 0, 0, bundleFlags), inner...))
		if err != nil {
			return err
		}
		msgs = append(msgs, outer...)
	}
	err := l.call(ctx, nil, ofBundleControl, control(bundleOpen))
	if err == nil { // what the switch cannot read it leaves out, and would commit the rest: it must have taken all before
		err = l.call(ctx, msgs, ofBundleControl, control(bundleClose))
	}
	if err == nil {
		err = l.call(ctx, nil, ofBundleControl, control(bundleCommit))
	}
	if err != nil {
		_ = l.call(ctx, nil, ofBundleControl, control(bundleDiscard))
		return fmt.Errorf("OpenFlow bundle: %w", err) //nolint:staticcheck // a name
	}
	return nil
}

// nudge changes the idle group, upon which the switch looks through its caches, and returns when the switch has taken it. What was absent is made by the first of the two messages and
// changed by the second: only a change counts.
func (l *Line) nudge(ctx context.Context) error {
	var body [8]byte
	binary.BigEndian.PutUint16(body[:], addOrModify)
	binary.BigEndian.PutUint32(body[4:], idleGroup)
	var msgs []byte
	for range 2 {
		msg, err := message(ofGroupMod, l.next(), body[:])
		if err != nil {
			return err
		}
		msgs = append(msgs, msg...)
	}
	return l.call(ctx, msgs, ofBarrierRequest, nil)
}

package flow

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Conntrack speaks with ovs-vswitchd's control socket about tracked connections: many requests on one connection, so that ending a thousand of them takes no thousand programs.
type Conntrack struct {
	RunDirectory string
	Datapath     string // for example "netdev@ovs-netdev"
}

// Connection is a tracked connection, by its original direction.
type Connection struct {
	Protocol           uint8
	Src, Dst           netip.Addr
	SrcPort, DstPort   uint16
	ICMPType, ICMPCode uint8
	ICMPID             uint16
}

// control connects with ovs-vswitchd.
func (c Conntrack) control(ctx context.Context) (*controlConn, error) {
	pid, err := os.ReadFile(filepath.Join(c.RunDirectory, "ovs-vswitchd.pid"))
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", filepath.Join(c.RunDirectory, "ovs-vswitchd."+strings.TrimSpace(string(pid))+".ctl"))
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &controlConn{Conn: conn, dec: json.NewDecoder(conn)}, nil
}

type controlConn struct {
	net.Conn
	dec *json.Decoder
	id  int
}

func (c *controlConn) call(method string, params ...string) (string, error) {
	if err := c.send(method, params...); err != nil {
		return "", err
	}
	return c.receive(method)
}

func (c *controlConn) send(method string, params ...string) error {
	c.id++
	params = append([]string{}, params...) // never null
	req, err := json.Marshal(map[string]any{"id": c.id, "method": method, "params": params})
	if err != nil {
		return err
	}
	_, err = c.Write(req)
	return err
}

func (c *controlConn) receive(method string) (string, error) {
	var reply struct{ Result, Error any }
	if err := c.dec.Decode(&reply); err != nil {
		return "", err
	}
	if reply.Error != nil {
		return "", fmt.Errorf("%s: %.300v", method, reply.Error)
	}
	s, _ := reply.Result.(string)
	return s, nil
}

// Cut ends the connections of a zone that keep does not want to keep, and returns how many.
func (c Conntrack) Cut(ctx context.Context, zone int, keep func(Connection) bool) (cut int, err error) {
	conn, err := c.control(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	z := "zone=" + strconv.Itoa(zone)
	out, err := conn.call("dpctl/dump-conntrack", c.Datapath, z)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines([]byte(out)) {
		x, ok := parseConnection(string(line))
		if !ok || keep(x) || c.deadly(x) {
			continue
		}
		_, err := conn.call("dpctl/flush-conntrack", z, x.tuple())
		if err != nil && strings.Contains(err.Error(), "specify") { // there are several datapaths, and then the first argument is one
			_, err = conn.call("dpctl/flush-conntrack", c.Datapath, z, x.tuple())
		}
		if err != nil && !strings.Contains(err.Error(), "No such") {
			return cut, err
		}
		cut++
	}
	return cut, nil
}

// deadly reports whether ovs-vswitchd does not survive being told to forget a connection: of the datapath in user space it takes an echo of ICMPv6 for one of ICMP, whose types it does not
// find there, and aborts (seen with 3.1.0). Such a connection expires within a minute, and nothing of it passes meanwhile unless a rule allows it.
func (c Conntrack) deadly(x Connection) bool {
	return x.Protocol == 58 && strings.HasPrefix(c.Datapath, "netdev@")
}

var (
	connLine  = regexp.MustCompile(`^(\w+),orig=\(([^)]*)\)`)
	protocols = map[string]uint8{"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "udplite": 136, "dccp": 33, "igmp": 2}
)

func parseConnection(line string) (x Connection, ok bool) {
	m := connLine.FindStringSubmatch(strings.TrimSpace(line))
	if m == nil {
		return x, false
	}
	if p, known := protocols[m[1]]; known {
		x.Protocol = p
	} else if p, err := strconv.ParseUint(m[1], 10, 8); err == nil {
		x.Protocol = uint8(p)
	} else {
		return x, false
	}
	for field := range strings.SplitSeq(m[2], ",") {
		k, v, _ := strings.Cut(field, "=")
		n, _ := strconv.ParseUint(v, 10, 16)
		switch k {
		case "src":
			x.Src, _ = netip.ParseAddr(v)
		case "dst":
			x.Dst, _ = netip.ParseAddr(v)
		case "sport":
			x.SrcPort = uint16(n)
		case "dport":
			x.DstPort = uint16(n)
		case "type":
			x.ICMPType = uint8(n) //nolint:gosec // as OVS writes it
		case "code":
			x.ICMPCode = uint8(n) //nolint:gosec // as OVS writes it
		case "id":
			x.ICMPID = uint16(n)
		}
	}
	return x, x.Src.IsValid() && x.Dst.IsValid()
}

// tuple names a connection as flush-conntrack wants it.
func (x Connection) tuple() string {
	f := "ct_nw_"
	if x.Src.Is6() {
		f = "ct_ipv6_"
	}
	s := fmt.Sprintf("%ssrc=%s,%sdst=%s,ct_nw_proto=%d", f, x.Src, f, x.Dst, x.Protocol)
	if x.Protocol == 1 || x.Protocol == 58 {
		return s + fmt.Sprintf(",icmp_type=%d,icmp_code=%d,icmp_id=%d", x.ICMPType, x.ICMPCode, x.ICMPID)
	}
	return s + fmt.Sprintf(",ct_tp_src=%d,ct_tp_dst=%d", x.SrcPort, x.DstPort)
}

package lab

import (
	"fmt"
	"strings"
)

// config is ceph.conf: one copy of everything, no waiting for further replicas or for more changes to the cluster's maps, and no warning about it.
func (c *Ceph) config() string {
	return strings.NewReplacer("FSID", c.FSID, "DIR", c.Dir, "ADDRESSES", c.addresses()).Replace(`[global]
fsid = FSID
mon initial members = a
mon host = ADDRESSES
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = DIR/keyring
run dir = DIR/run
admin socket = DIR/run/$cluster-$name.$pid.asok
pid file = DIR/run/$name.pid
log file = DIR/log/$name.log
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 1
osd pool default pg autoscale mode = off
mgr module path = /usr/share/ceph/mgr
[mon]
mon data = DIR/mon
mon allow pool delete = true
mon cluster log file = DIR/log/cluster.log
paxos propose interval = 0.05
paxos min wait = 0.01
[mgr]
mgr data = DIR/mgr
mgr initial modules =
mgr tick period = 1
[osd]
osd data = DIR/osd
osd objectstore = memstore
osd class load list = *
osd class default list = *
osd memory target = 939524096
osd mclock skip benchmark = true
memstore device bytes = 4294967296
osd max object name len = 256
osd max object namespace len = 64
`)
}

// addresses are the monitor's, as Ceph writes them.
func (c *Ceph) addresses() string {
	return fmt.Sprintf("[v2:127.0.0.1:%d/0,v1:127.0.0.1:%d/0]", c.port, c.port+1)
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/stack"
)

// network measures a network plugin in network and mount namespaces of its own, and more if asked: this program runs there once more. In a PID namespace all that is started ends with it.
func network(driver, prepare string, more ...string) func(context.Context, string, samples) error {
	return func(ctx context.Context, bin string, got samples) error {
		if err := lab.EnsurePackages(ctx, lab.NetworkPackages...); err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		script := "set -e; mount -t sysfs sysfs /sys; ip link set lo up; " + prepare + `exec "$@"`
		args := append([]string{"-n", "-m", "--fork", "--kill-child", "--propagation", "private"}, more...)
		args = append(args, "sh", "-c", script, "sh", self, "inside", driver, filepath.Join(bin, "plugins", driver))
		cmd := exec.CommandContext(ctx, "unshare", args...) //nolint:gosec // this program
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", driver, err)
		}
		part := samples{}
		if err := json.Unmarshal(out.Bytes(), &part); err != nil {
			return err
		}
		for name, vs := range part {
			got[name] = append(got[name], vs...)
		}
		return nil
	}
}

// compile measures the compiler of rules alone: 1,000 groups for 10,000 ports.
func compile(ctx context.Context, _ string, got samples) error {
	root, err := stack.Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "ThousandGroups", "-benchtime", "1x", "-count", "5", "./ruleset")
	cmd.Dir = filepath.Join(root, "plugins", "kit")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for _, m := range regexp.MustCompile(`(?m)^Benchmark\S*ThousandGroups\S*\s+\d+\s+(\d+) ns/op`).FindAllSubmatch(out, -1) {
		ns, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return err
		}
		got.add("network_compile_s", ns/1e9)
	}
	return nil
}

// Sizes of what is measured.
const (
	someRules = 1000
	manyRules = 10000
	ports     = 500
	turns     = 5
)

// Kinds of id of networks, beside those of pools.
const (
	aNetwork = iota + 100
	aPort
	aGroup
	aFriend
)

// switched is a launched network plugin with its network.
type switched struct {
	driver string
	device string
	places []*driverv1.OvsPortBinding // that wait for their ports
	client driverv1.NetworkDriverServiceClient
	got    samples
}

func (s *switched) add(workload string, v float64) { s.got.add("network_"+s.driver+"_"+workload, v) }

// measureNetwork measures one network plugin within the namespaces that it runs in.
func measureNetwork(ctx context.Context, driver, pluginDir string, got samples) (err error) {
	dir, err := os.MkdirTemp("", "lqs")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	proc, err := host.Launch(ctx, host.Spec{
		Dir: pluginDir, RuntimeDir: filepath.Join(dir, "run"), StartTimeout: 2 * time.Minute,
		Host: &driverv1.HostFacts{ClusterId: clusterID, NodeId: nodeID, NodeName: "bench", BootId: "b", StateDirectory: filepath.Join(dir, "state"), RuntimeDirectory: filepath.Join(dir, "r")},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proc.Stop(ctx, 10*time.Second)) }()
	s := &switched{driver: driver, client: driverv1.NewNetworkDriverServiceClient(proc.Conn()), got: got}
	kind := driverv1.NetworkType_NETWORK_TYPE_BRIDGE
	if driver == "ovs" {
		kind = driverv1.NetworkType_NETWORK_TYPE_OVS
	}
	made, err := s.client.EnsureNetwork(ctx, &driverv1.EnsureNetworkRequest{
		NetworkId: id(aNetwork, 0), Mark: markOf(id(aNetwork, 0)), Spec: &driverv1.NetworkSpec{Type: kind, Subnets: []*driverv1.SubnetSpec{{Cidr: "10.20.0.0/16"}}},
	})
	if err != nil {
		return err
	}
	s.device = made.GetNetwork().GetDevice()
	for _, f := range []func(context.Context) error{s.rules, s.members} {
		if err := f(ctx); err != nil {
			return err
		}
	}
	if driver == "bridge" {
		return s.peer(ctx)
	}
	return nil
}

func markOf(object string) *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: clusterID, NodeId: nodeID, ObjectId: object, Generation: 1, Epoch: 1}
}

// since runs f and says how long it took, in seconds.
func since(f func() error) (float64, error) {
	began := time.Now()
	err := f()
	return time.Since(began).Seconds(), err
}

// set is a rule set of n rules, each another network and port.
func set(group string, generation int64, n int) *driverv1.RuleSet {
	rs := &driverv1.RuleSet{RuleSetId: group, Mark: markOf(group), Generation: generation}
	for i := range n {
		rs.Rules = append(rs.Rules, &driverv1.Rule{
			RuleId: fmt.Sprintf("r%d", i), Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: proto.Uint32(6),
			Ports:  &driverv1.PortRange{First: uint32(1 + i%60000), Last: uint32(1 + i%60000)}, //nolint:gosec // small
			Remote: &driverv1.Rule_Cidr{Cidr: fmt.Sprintf("192.0.%d.%d/32", i/250%250, i%250)},
		})
	}
	return rs
}

func (s *switched) apply(ctx context.Context, rs *driverv1.RuleSet, sets ...*driverv1.AddressSet) error {
	_, err := s.client.ApplyRuleSet(ctx, &driverv1.ApplyRuleSetRequest{RuleSet: rs, AddressSets: sets})
	return err
}

func (s *switched) attach(ctx context.Context, i int, groups ...string) error {
	r, err := s.client.AttachInterface(ctx, &driverv1.NetworkDriverServiceAttachInterfaceRequest{
		InterfaceId: id(aPort, i), Mark: markOf(id(aPort, i)), Spec: &driverv1.InterfaceSpec{
			NetworkId: id(aNetwork, 0), Mac: fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256), IpAddresses: []string{fmt.Sprintf("10.20.%d.%d", 1+i/250, 1+i%250)}, RuleSetIds: groups,
		},
	})
	if p := r.GetInterface().GetBinding().GetOvsPort(); err == nil && p != nil {
		err = s.plug(ctx, p)
	}
	return err
}

// rules measures whole sets on a port, and one rule more.
func (s *switched) rules(ctx context.Context) error {
	group, generation := id(aGroup, 0), int64(1)
	if err := errors.Join(s.apply(ctx, set(group, generation, 1)), s.attach(ctx, 0, group), s.up(ctx, 1)); err != nil {
		return err
	}
	step := func(workload string, n int) error {
		generation++
		took, err := since(func() error { return s.apply(ctx, set(group, generation, n)) })
		if workload != "" {
			s.add(workload, took)
		}
		return err
	}
	for range turns {
		err := errors.Join(step("rules_1000_s", someRules), step("one_rule_more_s", someRules+1), step("", 1), step("rules_10000_s", manyRules), step("", 1))
		if err != nil {
			return err
		}
	}
	return nil
}

// members measures ports put in place, and one member more of a group that all of them refer to: its time, and what it changes in the kernel.
func (s *switched) members(ctx context.Context) error {
	group, friends := id(aGroup, 1), id(aFriend, 0)
	rs := set(group, 1, 10)
	rs.Rules = append(rs.Rules, &driverv1.Rule{RuleId: "friends", Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, Remote: &driverv1.Rule_AddressSetId{AddressSetId: friends}})
	members := &driverv1.AddressSet{AddressSetId: friends, Mark: markOf(friends), Generation: 1}
	for i := range ports {
		members.Members = append(members.Members, fmt.Sprintf("10.20.%d.%d", 1+(i+1)/250, 1+(i+1)%250))
	}
	if err := s.apply(ctx, rs, members); err != nil {
		return err
	}
	took, err := since(func() error {
		for i := range ports {
			if err := s.attach(ctx, i+1, group); err != nil {
				return err
			}
		}
		return s.up(ctx, ports+1)
	})
	if err != nil {
		return err
	}
	s.add("ports_500_s", took)
	var events counter
	if s.driver == "ovs" {
		events, err = watchFlows(ctx, s.device)
	} else {
		events, err = nftEvents(ctx)
	}
	if err != nil {
		return err
	}
	defer events.close()
	for i := range turns {
		before, err := events.count()
		if err != nil {
			return err
		}
		took, err := since(func() error {
			_, err := s.client.UpdateAddressSet(ctx, &driverv1.UpdateAddressSetRequest{
				AddressSetId: friends, Mark: markOf(friends), Generation: int64(2 + i), Change: &driverv1.UpdateAddressSetRequest_Delta{Delta: &driverv1.AddressSetDelta{BaseGeneration: int64(1 + i), Add: []string{fmt.Sprintf("10.20.200.%d", 1+i)}}},
			})
			return err
		})
		if err != nil {
			return err
		}
		after, err := events.count()
		if err != nil {
			return err
		}
		s.add("one_member_more_ms", took*1000)
		s.add("one_member_more_events", float64(after-before))
	}
	return nil
}

// counter counts changes.
type counter interface {
	count() (int, error)
	close()
}

// events counts what changes in nftables, which iptables' rules are part of: the kernel has told of a change before the change's command ends.
type events struct {
	fd   int
	seen int
}

const nftGroup = 7 // NFNLGRP_NFTABLES

// nftEvents begins to count. A change of its own shows that it does.
func nftEvents(ctx context.Context) (*events, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	e := &events{fd: fd}
	err = syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK, Groups: 1 << (nftGroup - 1)})
	if err == nil {
		err = exec.CommandContext(ctx, "nft", "add table inet lqbench; delete table inet lqbench").Run()
	}
	n := 0
	if err == nil {
		n, err = e.count()
	}
	if err == nil && n == 0 {
		err = errors.New("the kernel tells of no change in nftables")
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// count is how many changes there were so far. More than fit into the socket's buffer are an error.
func (e *events) count() (int, error) {
	b := make([]byte, 1<<16)
	for {
		n, _, err := syscall.Recvfrom(e.fd, b, syscall.MSG_DONTWAIT)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return e.seen, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("changes in nftables: %w", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(b[:n])
		if err != nil {
			return 0, err
		}
		e.seen += len(msgs)
	}
}

func (e *events) close() { _ = syscall.Close(e.fd) }

// peer measures the usual way beside it: one iptables command for each rule.
func (s *switched) peer(ctx context.Context) error {
	if err := exec.CommandContext(ctx, "iptables", "-N", "peer").Run(); err != nil {
		return err
	}
	took, err := since(func() error {
		for i := range someRules {
			if err := exec.CommandContext(ctx, "iptables", "-A", "peer", "-s", fmt.Sprintf("192.0.%d.%d/32", i/250%250, i%250), "-p", "tcp", "--dport", strconv.Itoa(1+i), "-j", "ACCEPT").Run(); err != nil { //nolint:gosec // ours
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.add("peer_1000_commands_s", took)
	return nil
}

package filter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Rendered is a model as the kernel shall have it.
type Rendered struct {
	V4, V6 Tables
	Frames *Frames
}

// Render makes both layers of a model.
func (m *Model) Render() *Rendered {
	return &Rendered{V4: m.tables(family{}), V6: m.tables(family{v6: true}), Frames: m.frames()}
}

// Kernel is the packet filter of the network namespace that the process is in. The backend is pinned: the same rules by the legacy backend would be another filter beside it.
type Kernel struct {
	mu   sync.Mutex
	pids map[int]struct{} // processes by which the driver itself changes something
}

// Own reports whether a process is one by which the driver itself changes the filter, now or lately.
func (k *Kernel) Own(pid int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, own := k.pids[pid]
	return own
}

// Run runs a tool with input and returns what it prints. Its failure is BACKEND_FAILED with what it said.
func (k *Kernel) Run(ctx context.Context, input, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		return "", fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%s: %w", tool, err).WithRemedy("install the packages of the bridge driver: iptables, nftables, ipset, conntrack, dnsmasq-base")
	}
	k.mu.Lock()
	if k.pids == nil || len(k.pids) > 4096 {
		k.pids = map[int]struct{}{}
	}
	k.pids[cmd.Process.Pid] = struct{}{}
	k.mu.Unlock()
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		said := strings.TrimSpace(errs.String())
		if len(said) > 400 {
			said = said[:400]
		}
		return "", fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%s: %w: %s", tool, err, said)
	}
	return out.String(), nil
}

// Read is what the kernel has of ours, not trusting memory.
func (k *Kernel) Read(ctx context.Context) (*Rendered, error) {
	var v4, v6, listed string
	var errs [3]error
	var wg sync.WaitGroup
	wg.Go(func() { v4, errs[0] = k.Run(ctx, "", "iptables-nft-save") })
	wg.Go(func() { v6, errs[1] = k.Run(ctx, "", "ip6tables-nft-save") })
	wg.Go(func() { listed, errs[2] = k.Run(ctx, "", "nft", "list", "table", "bridge", Table) })
	wg.Wait()
	if errs[2] != nil && strings.Contains(errs[2].Error(), "No such file") {
		errs[2] = nil
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return &Rendered{V4: parse(v4), V6: parse(v6), Frames: parseFrames(listed)}, nil
}

// Apply brings the kernel from have to want: each layer and family in one transaction, of what differs only. When it fails in the middle it puts back what it had changed.
// The second layer comes first: it is what shuts, and without the first layer's marks it lets nothing pass.
func (k *Kernel) Apply(ctx context.Context, have, want *Rendered) (err error) {
	ctx = context.WithoutCancel(ctx) // half a change is worse than a late one; the scripts are short
	steps := []struct {
		tool        string
		args        []string
		there, back string
	}{
		{"nft", []string{"-f", "-"}, frameScript(have.Frames, want.Frames), frameScript(want.Frames, have.Frames)},
		{"iptables-nft-restore", []string{"--noflush"}, script(have.V4, want.V4), script(want.V4, have.V4)},
		{"ip6tables-nft-restore", []string{"--noflush"}, script(have.V6, want.V6), script(want.V6, have.V6)},
	}
	for i, s := range steps {
		if s.there == "" {
			continue
		}
		if _, err = k.Run(ctx, s.there, s.tool, s.args...); err != nil {
			for j := i - 1; j >= 0; j-- {
				if steps[j].back != "" {
					if _, undo := k.Run(ctx, steps[j].back, steps[j].tool, steps[j].args...); undo != nil {
						err = errors.Join(err, fmt.Errorf("and the change before it could not be taken back: %w", undo))
					}
				}
			}
			return err
		}
	}
	return nil
}

// Shut puts the second layer in force whatever is there, in one transaction.
func (k *Kernel) Shut(ctx context.Context, want *Rendered) error {
	s := frameScript(&Frames{}, want.Frames)
	if s == "" {
		return nil
	}
	_, err := k.Run(ctx, fmt.Sprintf("add table bridge %s\ndelete table bridge %s\n%s", Table, Table, s), "nft", "-f", "-")
	return err
}

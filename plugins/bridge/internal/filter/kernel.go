package filter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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
	r := &Rendered{}
	var wg sync.WaitGroup
	wg.Go(func() { r.V4 = m.tables(family{}) })
	wg.Go(func() { r.V6 = m.tables(family{v6: true}) })
	wg.Go(func() { r.Frames = m.frames() })
	wg.Wait()
	return r
}

// Kernel is the packet filter of the network namespace that the process is in. The backend is pinned: the same rules by the legacy backend would be another filter beside it.
type Kernel struct {
	mu   sync.Mutex
	pids map[int]time.Time // processes by which the driver itself changes something, and when they were last known to run
}

// ownFor is how late the kernel's word of a change may be read. Later the process's number may be another's, and what that one changes must be seen.
const ownFor = time.Minute

// Own reports whether a process is one by which the driver itself changes the filter, now or lately.
func (k *Kernel) Own(pid int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	ran, own := k.pids[pid]
	return own && time.Since(ran) < ownFor
}

// runs remembers a process of the driver's.
func (k *Kernel) runs(pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pids == nil {
		k.pids = map[int]time.Time{}
	}
	k.pids[pid] = time.Now()
	if len(k.pids) > 1024 {
		maps.DeleteFunc(k.pids, func(_ int, ran time.Time) bool { return time.Since(ran) >= ownFor })
	}
}

// environment of tools. Before each change nft makes four indexes of 128 KiB for each table of the namespace: asked of the system one by one, and page by page, they take most of its time.
var environment = []string{"LC_ALL=C", "MALLOC_TOP_PAD_=4194304", "MALLOC_MMAP_THRESHOLD_=1073741824", "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"}

// Run runs a tool with input and returns what it prints. Its failure is BACKEND_FAILED with what it said.
func (k *Kernel) Run(ctx context.Context, input, tool string, args ...string) (string, error) {
	return k.run(ctx, 0, input, tool, args...)
}

func (k *Kernel) run(ctx context.Context, nice int, input, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = append(os.Environ(), environment...)
	if input != "" {
		script, err := whole(input)
		if err != nil {
			return "", fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%s: %w", tool, err)
		}
		defer func() { _ = script.Close() }()
		cmd.Stdin = script
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		return "", fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%s: %w", tool, err).WithRemedy("install the packages of the bridge driver: iptables, nftables, ipset, conntrack, dnsmasq-base")
	}
	k.runs(cmd.Process.Pid)
	if nice != 0 {
		_ = unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, nice) // where it may not, it is as fast as others
	}
	err := cmd.Wait()
	k.runs(cmd.Process.Pid)
	if err != nil {
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

// whole is a script as a file in memory. A tool that reads from a pipe takes what a killed plugin had written of a script for all of it.
func whole(script string) (*os.File, error) {
	fd, err := unix.MemfdCreate("script", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "script")
	_, err = f.WriteString(script)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
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

// step is a layer or family of a change: one transaction.
type step struct {
	tool        string
	args        []string
	there, back func() string // scripts
}

// Apply brings the kernel from have to want: the second layer, and each family of the first, in one transaction of what differs only. They share no table and are made at once: a packet passes
// when the second layer and its own family's part of the first let it, so that whichever comes first, nothing passes that neither the old nor the new of each would let pass. When one fails
// the others are put back.
func (k *Kernel) Apply(ctx context.Context, have, want *Rendered) error {
	ctx = context.WithoutCancel(ctx) // half a change is worse than a late one; the scripts are short
	restore := []string{"--noflush"}
	steps := []step{
		{"nft", []string{"-f", "-"}, func() string { return frameScript(have.Frames, want.Frames) }, func() string { return frameScript(want.Frames, have.Frames) }},
		{"iptables-nft-restore", restore, func() string { return script(have.V4, want.V4) }, func() string { return script(want.V4, have.V4) }},
		{"ip6tables-nft-restore", restore, func() string { return script(have.V6, want.V6) }, func() string { return script(want.V6, have.V6) }},
	}
	errs := make([]error, len(steps))
	var wg sync.WaitGroup
	for i, s := range steps {
		wg.Go(func() {
			if there := s.there(); there != "" {
				_, errs[i] = k.Run(ctx, there, s.tool, s.args...)
			}
		})
	}
	wg.Wait()
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	for i, s := range steps {
		if errs[i] != nil {
			continue // it changed nothing
		}
		if back := s.back(); back != "" {
			if _, undo := k.Run(ctx, back, s.tool, s.args...); undo != nil {
				err = errors.Join(err, fmt.Errorf("and another part of the change could not be taken back: %w", undo))
			}
		}
	}
	return err
}

// shutScript is short however many ports there are: while it is not in force, whatever took the second layer away has opened them.
var shutScript = sync.OnceValue(func() string {
	return fmt.Sprintf("add table bridge %s\ndelete table bridge %s\n%s", Table, Table, frameScript(&Frames{}, shut()))
})

const aheadOfOthers = -15

// Shut shuts every port, whatever is there, in one transaction. What is read next shows what is missing.
func (k *Kernel) Shut(ctx context.Context) error {
	_, err := k.run(ctx, aheadOfOthers, shutScript(), "nft", "-f", "-")
	return err
}

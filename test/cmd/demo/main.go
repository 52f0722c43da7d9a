// Command demo shows the whole path on one machine: it starts a private libvirtd, a controller and an agent with its plugins, boots a guest whose
// kernel command line carries a random nonce, and shows that nonce on the guest's console. "demo down" ends all of it.
//
// Everything lies below one directory (LIMIQUANTIX_DEMO_DIR, default /var/lib/limiquantix-demo); the host's own libvirt is never touched.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/stack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir := os.Getenv("LIMIQUANTIX_DEMO_DIR")
	if dir == "" {
		dir = "/var/lib/limiquantix-demo"
	}
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "check":
		err = check(dir)
	case len(os.Args) == 2 && os.Args[1] == "up":
		err = up(ctx, dir)
	case len(os.Args) == 2 && os.Args[1] == "down":
		err = down(dir)
	default:
		err = errors.New("usage: demo check | up | down")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// up starts what does not run and boots one more guest.
func up(ctx context.Context, dir string) error {
	bin, err := binaries()
	if err != nil {
		return err
	}
	packages := append(append([]string{}, lab.NodePackages...), lab.BusyboxPackages...)
	fmt.Println("packages needed:", strings.Join(packages, " "))
	if err := lab.EnsurePackages(ctx, packages...); err != nil {
		return err
	}
	s, err := stack.Open(ctx, stack.Options{Dir: dir, Bin: bin, Name: "demo", Detached: true})
	if err != nil {
		return err
	}
	fmt.Println("controller, agent and libvirtd run; waiting for the node")
	if err := s.AwaitNode(ctx); err != nil {
		return fmt.Errorf("the node does not become ready: %w\n\"make build\" builds what is missing; \"make demo-down\" ends what runs", err)
	}
	for name, file := range map[string]string{"vmlinuz": s.Guest.Kernel, "initrd": s.Guest.Initrd} {
		if _, err := s.LQCtl(ctx, "image", "import", name, "--file", file, "--format", "raw", "-q"); err != nil && !strings.Contains(err.Error(), "NAME_TAKEN") {
			return err
		}
	}
	nonce := rand.Text()
	name := "demo-" + strings.ToLower(nonce[:6])
	fmt.Printf("+ lqctl vm create %s --memory 128M --kernel vmlinuz --initrd initrd --cmdline \"... nonce=%s\"\n", name, nonce)
	began := time.Now()
	if _, err := s.LQCtl(ctx, "vm", "create", name, "--memory", "128M", "--kernel", "vmlinuz", "--initrd", "initrd",
		"--cmdline", "console=ttyS0 quiet panic=1 labname="+name+" nonce="+nonce, "--timeout", "2m"); err != nil {
		return err
	}
	fmt.Printf("runs after %s; it boots\n+ lqctl vm logs %s\n", time.Since(began).Round(10*time.Millisecond), name)
	if err := showNonce(ctx, s, name, nonce); err != nil {
		return err
	}
	if err := s.PrintProcesses(os.Stdout); err != nil {
		return err
	}
	fmt.Printf("\nGo on with:\n  export PATH=%s:$PATH LQCTL_SERVER=%s LQCTL_TOKEN_FILE=%s\n  lqctl vm list\n  lqctl vm console %s\nEnd it all with: make demo-down\n", s.Bin, s.Server, s.TokenFile(), name)
	return nil
}

// binaries is the folder of what was built, or of what shall be shown instead.
func binaries() (string, error) {
	if dir := os.Getenv(stack.BinEnv); dir != "" {
		return dir, nil
	}
	root, err := stack.Root()
	return filepath.Join(root, "bin"), err
}

func showNonce(ctx context.Context, s *stack.Stack, name, nonce string) error {
	err := stack.Until(ctx, 5*time.Minute, "the guest shows its nonce", func() (bool, string) {
		out, err := s.LQCtl(ctx, "vm", "logs", name)
		if err != nil {
			return false, err.Error()
		}
		if !strings.Contains(out, "NONCE "+nonce) || !strings.Contains(out, "GUEST-READY") {
			return false, out[max(0, len(out)-300):]
		}
		for _, line := range strings.Split(out, "\n") {
			if strings.Contains(line, "NONCE") || strings.Contains(line, "GUEST-READY") {
				fmt.Println(" ", strings.TrimSpace(line))
			}
		}
		return true, ""
	})
	if err != nil {
		return err
	}
	fmt.Println("the nonce came back from the guest:", nonce)
	return nil
}

// down ends everything and removes the directory.
func down(dir string) error {
	s, err := stack.Running(dir)
	if err != nil {
		return err
	}
	if err := s.Stop(); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	fmt.Println("nothing of the demo is left")
	return nil
}

package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab/guest/wire"
)

// CopyIn copies a program into the guest's memory and returns its path there.
func (g *Guest) CopyIn(ctx context.Context, program string) (string, error) {
	name := filepath.Base(program)
	src, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer src.Close()                                                                                     //nolint:errcheck // only read
	dst, err := os.OpenFile(filepath.Join(g.dir, "lab", name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755) //nolint:gosec // a program
	if err != nil {
		return "", err
	}
	_, err = io.Copy(dst, src)
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", err
	}
	to := "/run/lab-bin/" + name
	_, err = g.Run(ctx, "/bin/sh", "-ec", `mkdir -p /run/lab-bin; cp "$0" "$1"`, "/run/lab/"+name, to)
	return to, err
}

// Plugin copies a static plugin binary into the guest and makes dir a plugin directory of the host that stands for it: hand it to sdk/host.Launch or
// sdk/conformance. m is the manifest of the plugin; its Executable may be empty.
func (g *Guest) Plugin(ctx context.Context, dir, binary string, m host.Manifest) error {
	path, err := g.CopyIn(ctx, binary)
	if err != nil {
		return fmt.Errorf("copy the plugin into the guest: %w", err)
	}
	m.Executable = filepath.Base(binary)
	if err := build(ctx, filepath.Join(dir, m.Executable), "relay"); err != nil {
		return err
	}
	b, err := json.Marshal(wire.Relay{Agent: g.agentSocket(), Path: path})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, wire.RelayFile), b, 0o644); err != nil { //nolint:gosec // no secret
		return err
	}
	return host.WriteManifest(dir, &m)
}

// BlockPlugin is Plugin for one that attaches block devices: the host's programs get loop devices over what is mirrored of the guest's /dev at mirror.
func (g *Guest) BlockPlugin(ctx context.Context, dir, binary, mirror string, m host.Manifest) error {
	inner := filepath.Join(g.dir, "bridged-"+m.Name)
	if err := os.Mkdir(inner, 0o755); err != nil { //nolint:gosec // no secret
		return err
	}
	if err := g.Plugin(ctx, inner, binary, m); err != nil {
		return err
	}
	m.Executable = filepath.Base(binary)
	if err := build(ctx, filepath.Join(dir, m.Executable), "bridge"); err != nil {
		return err
	}
	b, err := json.Marshal(wire.Bridge{Name: m.Name, Version: m.Version, Plugin: inner, Mirror: mirror})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, wire.BridgeFile), b, 0o644); err != nil { //nolint:gosec // no secret
		return err
	}
	return host.WriteManifest(dir, &m)
}

// build builds one of this package's programs.
func build(ctx context.Context, to, name string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", to, "github.com/limiquantix/limiquantix/test/lab/guest/"+name) //nolint:gosec // fixed
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest's %s: %w: %s", name, err, out)
	}
	return nil
}

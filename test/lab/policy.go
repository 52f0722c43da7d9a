package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// policyPath is asked by invoke-rc.d before a package starts a service.
const policyPath = "/usr/sbin/policy-rc.d"

// policyText refuses every start. Its comment marks the file as ours, so that
// one left behind by a killed run is taken over and removed by the next.
const policyText = "#!/bin/sh\n# placed by the limiquantix test lab while it installs packages\nexit 101\n"

// forbidServices keeps packages from starting services until release is
// called. A policy that the machine already has is left alone.
func forbidServices(path string) (release func(), err error) {
	old, err := os.ReadFile(path)
	switch {
	case err == nil && string(old) != policyText:
		return func() {}, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read service policy: %w", err)
	}
	if err := os.WriteFile(path, []byte(policyText), 0o755); err != nil {
		return nil, fmt.Errorf("place service policy: %w", err)
	}
	return func() { _ = os.Remove(path) }, nil
}

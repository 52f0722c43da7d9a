package command

import (
	"io"
	"os"
	"strings"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// maxText bounds files that become part of a VM's description: cloud-init documents and keys.
const maxText = 64 << 10

// cloudInit adds what the guest is told at its first boot.
func (f *vmFlags) cloudInit(spec *computev1.VMSpec) error {
	if f.hostname == "" && len(f.sshKeys) == 0 && f.userData == "" && f.networkConfig == "" {
		return nil
	}
	ci := &computev1.CloudInit{Hostname: f.hostname}
	spec.CloudInit = ci
	for _, path := range f.sshKeys {
		text, err := readText("--ssh-key", path)
		if err != nil {
			return err
		}
		keys := keyLines(text)
		switch {
		case strings.Contains(text, "PRIVATE KEY"):
			return failure.Usage("--ssh-key: %s holds a private key", path).WithFix("give the public one: %s.pub", path)
		case len(keys) == 0:
			return failure.Usage("--ssh-key: %s holds no key", path).WithFix("give a file as ssh-keygen writes it, ending in .pub")
		}
		ci.SshAuthorizedKeys = append(ci.SshAuthorizedKeys, keys...)
	}
	if f.userData != "" {
		text, err := readText("--user-data", f.userData)
		if err != nil {
			return err
		}
		ci.UserData = []byte(text)
	}
	if f.networkConfig != "" {
		text, err := readText("--network-config", f.networkConfig)
		if err != nil {
			return err
		}
		ci.NetworkConfig = text
	}
	return nil
}

func keyLines(text string) []string {
	var keys []string
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			keys = append(keys, line)
		}
	}
	return keys
}

func readText(flag, path string) (string, error) {
	r, err := os.Open(path)
	if err != nil {
		return "", failure.New(failure.ExitGeneral, failure.ReasonFile, "%s: %w", flag, err).WithFix("check the path and who may read it")
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxText {
		return "", failure.Usage("%s: %s is larger than 64 KiB", flag, path).WithFix("keep it small; fetch the rest from within the guest")
	}
	return string(data), nil
}

package e2e

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/limiquantix/limiquantix/test/stack"

	_ "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

var (
	tourBlock     = regexp.MustCompile("(?ms)^```sh tour\n(.*?)^```$")
	networksBlock = regexp.MustCompile("(?ms)^```sh networks\n(.*?)^```$")
)

// What the README shows of networks works as typed, where the node has a network plugin.
func TestREADMENetworks(t *testing.T) {
	s := start(t, func(o *stack.Options) { o.Network = []string{"bridge"} })
	if err := s.AwaitNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := importGuest(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := networksBlock.FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README shows no networks")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-eux", "-o", "pipefail", "-c", string(block[1]))
	cmd.Env, cmd.Dir = s.Env(), t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"dropped (NO_RULE)", "front/nic0", "10.64.", "would change"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it never printed %q:\n%s", want, out)
		}
	}
}

// Every command of the README's tour works as typed, by a user with Go's folders, and the tour shows every method of VMService and NodeService.
func TestREADMETour(t *testing.T) {
	s := common(t)
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := tourBlock.FindAllSubmatch(readme, -1)
	if len(blocks) < 4 {
		t.Fatalf("the README's tour has %d blocks", len(blocks))
	}
	var all strings.Builder
	for _, b := range blocks {
		all.Write(b[1])
	}
	for _, service := range []protoreflect.FullName{"limiquantix.compute.v1.VMService", "limiquantix.compute.v1.NodeService"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(service)
		if err != nil {
			t.Fatal(err)
		}
		for i := range d.(protoreflect.ServiceDescriptor).Methods().Len() {
			m := d.(protoreflect.ServiceDescriptor).Methods().Get(i)
			if !regexp.MustCompile(string(service.Name()) + "/" + string(m.Name()) + `\b`).MatchString(all.String()) {
				t.Errorf("the tour does not show %s/%s", service.Name(), m.Name())
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-eux", "-o", "pipefail", "-c", all.String())
	cmd.Env, cmd.Dir = s.Env(), t.TempDir()
	for _, name := range []string{"GOPATH", "GOMODCACHE", "GOCACHE", "GOPROXY", "GOSUMDB"} {
		v, err := exec.CommandContext(ctx, "go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, name+"="+strings.TrimSpace(string(v)))
	}
	var out, both bytes.Buffer // what it prints; and with the commands
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, &both), &both
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, both.Bytes()[max(0, both.Len()-4000):])
	}
	for _, want := range []string{
		"from-file deleted", "NODE_PHASE_READY", "WATCH_EVENT_TYPE_", `"data":"`, "sends its own heartbeats", "limiquantix.storage.v1.ImageService\n", "limiquantix.compute.v1.VMService\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the tour never printed %s:\n%s", want, both.String())
		}
	}
}

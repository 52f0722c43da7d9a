package failpoint_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/test/ports"
)

func meta(name string) *metav1.ObjectMeta { return &metav1.ObjectMeta{Name: name} }

// editJournal changes the backend's state, between two calls of the plugin if it runs.
func editJournal(path string, f func(journal) error) error {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { //nolint:gosec // a descriptor is no large number
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	j := journal{}
	if err := errors.Join(json.Unmarshal(data, &j), f(j)); err != nil {
		return err
	}
	if data, err = json.Marshal(j); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path))
}

// actRace lets two controllers make the cluster in one etcd at once: the first holds its commit back until the second has made it.
func actRace(ctx context.Context, r *rig) error { return race(ctx, r, true) }

// actRaceApart is the same with a key file of each one's own: the slower one is told to copy the other's, which is done.
func actRaceApart(ctx context.Context, r *rig) error { return race(ctx, r, false) }

func race(ctx context.Context, r *rig, shared bool) error {
	endpoint, stop, err := etcd(filepath.Join(r.dir, "etcd"))
	if err != nil {
		return err
	}
	defer stop()
	second, err := newRig(filepath.Join(r.dir, "second"), r.built, r.bound)
	if err != nil {
		return err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	for _, one := range []*rig{r, second} {
		config := fmt.Sprintf("store: {kind: etcd, endpoints: [%q]}\n", endpoint)
		data := filepath.Join(one.dir, "controller")
		err := errors.Join(os.WriteFile(filepath.Join(one.dir, "controller.yaml"), []byte(config), 0o600), os.MkdirAll(data, 0o700))
		if shared && err == nil {
			err = os.WriteFile(filepath.Join(data, keyFile), []byte(base64.RawURLEncoding.EncodeToString(key)+"\n"), 0o600)
		}
		if err != nil {
			return err
		}
	}
	if err := r.controller.start(); err != nil {
		return err
	}
	err = r.until(ctx, "the first controller is about to make the cluster", func() (bool, string) { return r.fired(clusterCommit), "" })
	if err != nil {
		return err
	}
	if err := second.controller.start(); err != nil {
		return err
	}
	err = second.ready(ctx)
	if !shared && err == nil {
		err = r.copyKey(ctx, second)
	}
	err = errors.Join(err, r.ready(ctx))
	if err == nil {
		_, err = call(ctx, second, second.nodes.ListNodes, &computev1.ListNodesRequest{})
	}
	return errors.Join(err, second.controller.stop(syscall.SIGTERM), r.controller.stop(syscall.SIGTERM))
}

const keyFile = "seal.key"

// copyKey does what the slower controller asks for, once it does.
func (r *rig) copyKey(ctx context.Context, from *rig) error {
	err := r.until(ctx, "the slower controller asks for the cluster's key file", func() (bool, string) {
		log, err := os.ReadFile(r.controller.log)
		return err == nil && strings.Contains(string(log), keyFile), string(log)
	})
	if err != nil {
		return err
	}
	if err := r.controller.stop(syscall.SIGKILL); err != nil {
		return err
	}
	for _, name := range []string{keyFile, "admin.token"} {
		b, err := os.ReadFile(filepath.Join(from.dir, "controller", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(r.dir, "controller", name), b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return r.controller.start()
}

const clusterCommit = "controller/internal/pki/cluster.go:createCluster#1:Commit"

// etcd runs one that listens on a loopback port.
func etcd(dir string) (endpoint string, stop func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	ports, err := ports.Free(1)
	if err != nil {
		return "", nil, err
	}
	client := url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "data")
	cfg.ListenPeerUrls = nil
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.EnableGRPCGateway = false
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return "", nil, err
	}
	<-server.Server.ReadyNotify()
	return client.String(), server.Close, nil
}

// actFenced declares a node off for good that has an image and a VM; the VM waits for another node and is deleted.
func actFenced(ctx context.Context, r *rig) error {
	if err := r.up(ctx); err != nil {
		return err
	}
	img, err := r.upload(ctx, "image", "upload", content)
	if err != nil {
		return err
	}
	id, err := r.create(ctx, machine("vm", disk("root", "image", diskSize)))
	if err != nil {
		return err
	}
	if err := r.agent.stop(syscall.SIGKILL); err != nil {
		return err
	}
	if _, err := call(ctx, r, r.nodes.DeleteNode, &computev1.DeleteNodeRequest{Id: nodeName, Force: true, RequestId: "fence"}); err != nil && !isNotFound(err) {
		return err
	}
	err = r.until(ctx, "the node is gone", func() (bool, string) {
		m, err := r.nodes.GetNode(ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: nodeName}))
		return isNotFound(err), fmt.Sprint(m, err)
	})
	if err != nil {
		return err
	}
	err = r.until(ctx, "the vm waits to be placed anew", func() (bool, string) {
		m, err := r.vms.GetVM(ctx, connect.NewRequest(&computev1.GetVMRequest{Id: id}))
		if err != nil {
			return false, err.Error()
		}
		st := m.Msg.GetVm().GetStatus()
		return st.GetPhase() == computev1.VMPhase_VM_PHASE_PENDING && st.GetVmPlacement() == nil, m.Msg.String()
	})
	if err != nil {
		return err
	}
	if err := errors.Join(r.remove(ctx, id), r.removeImage(ctx, img.GetMeta().GetId())); err != nil {
		return err
	}
	return pause(ctx, 100*time.Millisecond)
}

package realised

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func open(t *testing.T, dir string) (*Store, Recovery) {
	t.Helper()
	s, r, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

func TestRecordsLast(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, r := open(t, dir)
	if r.Lost {
		t.Error("a first start counts as a loss")
	}
	k := Key{KindVM, "v"}
	rec := Record{Kind: KindVM, ID: "v", Epoch: 3, RestartDone: 2, Attachments: []Attachment{{VolumeID: "x"}}}
	s.Put(rec)
	rec.Attachments[0].VolumeID = "changed by its owner"
	if got, ok := s.Record(k); !ok || got.Attachments[0].VolumeID != "x" {
		t.Errorf("record %+v", got)
	}
	s.Put(Record{Kind: KindVM, ID: "w"})
	s.Delete(Key{KindVM, "w"})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, r = open(t, dir)
	defer s.Close() //nolint:errcheck // only read
	if got, _ := s.Record(k); r.Lost || got.Epoch != 3 || got.RestartDone != 2 || len(s.Records(KindVM)) != 1 {
		t.Errorf("after opening again: %+v, %+v", got, r)
	}
}

// PutNow is on disk when it returns, whatever happens to the process.
func TestPutNowIsDurable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _ := open(t, dir)
	defer s.Close() //nolint:errcheck // the copy counts
	if err := s.PutNow(Record{Kind: KindVM, ID: "v", RestartDone: 7}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, fileName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ := open(t, other)
	defer c.Close() //nolint:errcheck // only read
	if got, _ := c.Record(Key{KindVM, "v"}); got.RestartDone != 7 {
		t.Errorf("%+v", got)
	}
}

func TestNoSecretOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _ := open(t, dir)
	secret := []byte("hunter2-hunter2")
	vm := &agentv1.DesiredObject{
		Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_VM, Id: "v"},
		Object: &agentv1.DesiredObject_Vm{Vm: &agentv1.DesiredVM{VmId: "v", UserData: secret, Spec: &computev1.VMSpec{
			DesiredPower: computev1.PowerState_POWER_STATE_PAUSED, CloudInit: &computev1.CloudInit{UserData: secret},
		}}},
	}
	pool := &agentv1.DesiredObject{
		Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_POOL, Id: "p"},
		Object: &agentv1.DesiredObject_Pool{Pool: &agentv1.DesiredPool{
			Secrets: map[string][]byte{"key": secret}, Pool: &storagev1.StoragePool{Spec: &storagev1.StoragePoolSpec{Secrets: map[string][]byte{"key": secret}}},
		}},
	}
	if err := s.SaveDesired([]*agentv1.DesiredObject{vm, pool}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if string(vm.GetVm().GetUserData()) != string(secret) {
		t.Error("the caller's object was changed")
	}
	data, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil || bytes.Contains(data, secret) {
		t.Errorf("a secret is on disk (%v)", err)
	}
	s, _ = open(t, dir)
	defer s.Close() //nolint:errcheck // only read
	if got := s.Desired(); len(got) != 2 || got[1].GetVm().GetSpec().GetDesiredPower() != computev1.PowerState_POWER_STATE_PAUSED {
		t.Errorf("%v", got)
	}
}

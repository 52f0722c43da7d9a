package daemon

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/limiquantix/limiquantix/agent/internal/enrol"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func TestRestartAdopts(t *testing.T) {
	l := newLab(t)
	pid := l.running()
	creates, updates, starts := l.host.count("CreateDomain"), l.host.count("UpdateDomain"), l.host.count("StartDomain")
	l.stop()
	l.samePID(pid)
	l.ctrl.mu.Lock()
	delete(l.ctrl.vms, vmID)
	l.ctrl.mu.Unlock()
	l.start()
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	l.samePID(pid)
	if creates != l.host.count("CreateDomain") || updates != l.host.count("UpdateDomain") || starts != l.host.count("StartDomain") {
		t.Error("a running guest was defined or started again")
	}
}

// Without a controller the node goes on with what it knows: a guest that crashed is started again.
func TestAloneAfterRestart(t *testing.T) {
	l := newLab(t)
	pid := l.running()
	l.stop()
	l.ctrl.srv.Stop()
	l.host.end(vmID, driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_HOST)
	l.host.do(func() { clear(l.host.attached) }) // the host has booted
	l.start()
	l.host.wait("the guest started again", func() bool { return l.host.domains[vmID].GetPid() > pid })
}

func TestLostStateIsFoundByMarks(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, string){
		"lost":  func(t *testing.T, path string) { t.Helper(); must(t, os.Remove(path)) },
		"empty": func(t *testing.T, path string) { t.Helper(); must(t, os.Truncate(path, 0)) },
		"garbage": func(t *testing.T, path string) {
			t.Helper()
			must(t, os.WriteFile(path, []byte(strings.Repeat("x", 70000)), 0o600))
		},
		"damaged": func(t *testing.T, path string) {
			t.Helper()
			data, err := os.ReadFile(path)
			must(t, err)
			for i := 8192; i < len(data); i++ {
				data[i] ^= 0xa5
			}
			must(t, os.WriteFile(path, data, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			pid := l.running()
			l.stop()
			spoil(t, l.stateFile())
			l.start()
			l.ctrl.wait("word of the loss", l.event("StateLost"))
			l.ctrl.set(vm(2))
			l.ctrl.waitPhase(vmID, 2, phaseRunning)
			l.samePID(pid)
			l.ctrl.wait("no orphans", func() bool { return l.ctrl.orphaned && len(l.ctrl.orphans) == 0 })
			if name == "garbage" || name == "damaged" {
				if kept, _ := filepath.Glob(l.stateFile() + ".damaged-*"); len(kept) != 1 {
					t.Errorf("the damaged file was not kept: %v", kept)
				}
			}
			// The epoch is known again from the mark.
			l.ctrl.set(vm(3, func(v *agentv1.DesiredVM) { v.Epoch = 0 }))
			l.ctrl.wait("the refusal", l.event("STALE_EPOCH"))
		})
	}
}

func TestOrphansAreReportedAndNotTouched(t *testing.T) {
	l := newLab(t)
	pid := l.running()
	mark := func(node string) *driverv1.OwnershipMark {
		return &driverv1.OwnershipMark{ClusterId: testCluster, NodeId: node, ObjectId: "ffff"}
	}
	l.host.do(func() {
		l.host.domains["foreign"] = &domain{Domain: &driverv1.Domain{DomainId: "foreign", Mark: mark("another"), State: driverv1.DomainState_DOMAIN_STATE_RUNNING}}
		l.host.domains["ffff"] = &domain{Domain: &driverv1.Domain{DomainId: "ffff", Mark: mark(testNode), State: driverv1.DomainState_DOMAIN_STATE_RUNNING, Pid: 7}}
		l.host.volumes["vvvv"] = &driverv1.Volume{PoolId: poolID, VolumeId: "vvvv", Mark: mark(testNode)}
	})
	has := func(id string) bool {
		for _, o := range l.ctrl.orphans {
			if o.GetObjectId() == id {
				return true
			}
		}
		return false
	}
	l.ctrl.wait("the orphans", func() bool { return has("ffff") && has("vvvv") && !has("foreign") && !has(vmID) && !has(volID) })
	// What is wanted no longer, and was not confirmed absent, is one too.
	l.ctrl.remove(vmKey(vmID))
	l.ctrl.wait("the VM as an orphan", func() bool { return has(vmID) })
	l.samePID(pid)
	l.ctrl.set(vm(2)) // wanted again: adopted
	l.ctrl.waitPhase(vmID, 2, phaseRunning)
	l.ctrl.wait("no orphan any more", func() bool { return !has(vmID) })
	l.samePID(pid)
	if l.host.count("DeleteDomain")+l.host.count("DeleteVolume")+l.host.count("StopDomain") != 0 {
		t.Error("an orphan was touched")
	}
}

func TestReconnectSendsNothingAgain(t *testing.T) {
	l := newLab(t)
	pid := l.running()
	l.ctrl.mu.Lock()
	upserts, snaps := l.ctrl.upserts, l.ctrl.snaps
	delete(l.ctrl.vms, vmID)
	l.ctrl.mu.Unlock()
	l.ctrl.cut()
	l.ctrl.wait("a new stream, and all reports again", func() bool { return len(l.ctrl.streams) == 1 && l.ctrl.vms[vmID] != nil })
	l.ctrl.mu.Lock()
	if l.ctrl.upserts != upserts || l.ctrl.snaps != snaps {
		t.Errorf("%d objects and %d snapshots were sent again", l.ctrl.upserts-upserts, l.ctrl.snaps-snaps)
	}
	l.ctrl.mu.Unlock()
	l.samePID(pid)
	// What changed while it was away comes as a snapshot; what is not in it is wanted no longer.
	l.ctrl.cut()
	l.ctrl.remove(volKey(volID))
	l.ctrl.set(vm(2))
	l.ctrl.wait("a snapshot", func() bool { return l.ctrl.snaps > snaps || len(l.ctrl.streams) == 1 })
	l.ctrl.waitPhase(vmID, 2, phaseRunning)
}

func TestKilledPluginIsWaitedFor(t *testing.T) {
	l := newLab(t)
	pid := l.running()
	l.plugins.kill("kvm")
	l.ctrl.wait("word of the plugin", func() bool { return len(l.ctrl.drivers) == 2 && l.ctrl.drivers[0].GetState() == "unhealthy" })
	l.ctrl.set(vm(2, power(paused)))
	l.ctrl.wait("the wait", func() bool {
		s := l.ctrl.vms[vmID].GetStatus()
		return s.GetPhase() == phaseRunning && s.GetReason() == "PLUGIN_UNAVAILABLE" && strings.Contains(s.GetMessage(), "plugin kvm is not running") && s.GetNextRetryTime() != nil
	})
	l.plugins.up("kvm")
	l.ctrl.waitPhase(vmID, 2, phasePaused)
	l.samePID(pid)
	// A storage plugin that comes back knows no pool: it is told again.
	l.plugins.kill("local")
	l.plugins.up("local")
	l.ctrl.set(volume("bbbb"))
	l.ctrl.wait("another volume", func() bool {
		return l.ctrl.volumes["bbbb"].GetStatus().GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY
	})
}

func TestVolumes(t *testing.T) {
	l := newLab(t)
	l.ctrl.set(pool())
	img := "99999999-0000-4000-8000-000000000000"
	from := func(v *agentv1.DesiredVolume) {
		v.Volume.Spec.Source = &storagev1.VolumeSource{Source: &storagev1.VolumeSource_ImageId{ImageId: img}}
	}
	l.ctrl.set(volume(volID, from))
	l.ctrl.wait("a volume that waits for its image", func() bool {
		s := l.ctrl.volumes[volID].GetStatus()
		return s.GetReason() == "IMAGE_NOT_FOUND" && s.GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_CREATING && s.GetNextRetryTime() != nil
	})
	// The upload lets it go on.
	tun := l.ctrl.open(&agentv1.OpenTunnel{TunnelId: "t1", Purpose: &agentv1.OpenTunnel_ImageUpload{ImageUpload: &agentv1.ImageUploadTunnel{
		PoolId: poolID, Epoch: 1, Image: &storagev1.Image{Meta: &metav1.ObjectMeta{Id: img}, Spec: &storagev1.ImageSpec{ContentBytes: 10}},
	}}})
	must(t, tun.data("01234"))
	must(t, tun.data("56789"))
	must(t, tun.end(0))
	if end := tun.ended(t); end.GetCode() != 0 || !end.GetImage().GetReady() || end.GetImage().GetContentBytes() != 10 {
		t.Errorf("end of the upload: %v", end)
	}
	tun.close()
	ready := func() bool {
		return l.ctrl.volumes[volID].GetStatus().GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY
	}
	l.ctrl.wait("the volume", ready)
	l.ctrl.wait("the image", func() bool { return l.ctrl.images[img].GetReady() })
	l.host.wait("two more surveys", surveys(l, 2))
	l.ctrl.mu.Lock()
	if o := l.ctrl.orphan(img); o != nil { // the controller wants it when it has heard of it
		t.Errorf("a copy that has just come is an orphan: %v", o)
	}
	l.ctrl.mu.Unlock()
	l.ctrl.set(volume(volID, from, func(v *agentv1.DesiredVolume) { v.Volume.Spec.SizeBytes, v.Volume.Meta.Generation = 4<<20, 2 }))
	l.ctrl.wait("the larger volume", func() bool {
		v := l.ctrl.volumes[volID]
		return v.GetStatus().GetSizeBytes() == 4<<20 && v.GetObservedGeneration() == 2
	})
	// A volume that is gone is not made again in silence.
	l.stop()
	l.host.do(func() { delete(l.host.volumes, volID) })
	l.start()
	l.ctrl.wait("the loss", func() bool {
		return strings.Contains(l.ctrl.volumes[volID].GetStatus().GetMessage(), "is gone from pool")
	})
	if len(l.host.volumes) != 0 {
		t.Error("a blank volume took the place of the lost one")
	}
}

// What a fenced node has attached is void, for VMs and for the volume's own changes; what another node has is not.
func TestFencedNodesLetGo(t *testing.T) {
	l := newLab(t)
	dead, live := "dddddddd-0000-4000-8000-000000000000", "eeeeeeee-0000-4000-8000-000000000000"
	fenced := func(v *agentv1.DesiredVolume) {
		v.FencedNodeIds = []string{"cccccccc-0000-4000-8000-000000000000", dead}
	}
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID, fenced))
	l.ctrl.wait("the volume", func() bool {
		return l.ctrl.volumes[volID].GetStatus().GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY
	})
	l.host.do(func() { l.host.holders = map[string]string{volID: live} })
	l.ctrl.set(volume(volID, fenced, func(v *agentv1.DesiredVolume) { v.Absent = true }))
	l.ctrl.wait("the refusal", func() bool { return l.ctrl.volumes[volID].GetStatus().GetReason() == "VOLUME_IN_USE" })
	l.host.do(func() {
		if l.host.holders[volID] != live || l.host.attached[volID] {
			t.Errorf("held by %q, attached here: %v", l.host.holders[volID], l.host.attached[volID])
		}
		l.host.holders[volID] = dead
	})
	l.ctrl.wait("the deletion", func() bool { return l.ctrl.volumes[volID].GetAbsent() })
	l.host.do(func() {
		if len(l.host.volumes)+len(l.host.attached) != 0 {
			t.Errorf("left: %v, %v", l.host.volumes, l.host.attached)
		}
	})
}

func TestUploadCutOff(t *testing.T) {
	l := newLab(t)
	l.running()
	for name, finish := range map[string]func(*tunnelEnd){
		"aborted": func(e *tunnelEnd) { must(t, e.end(1)) },
		"cut":     func(e *tunnelEnd) { e.close() },
	} {
		tun := l.ctrl.open(&agentv1.OpenTunnel{TunnelId: name, Purpose: &agentv1.OpenTunnel_ImageUpload{ImageUpload: &agentv1.ImageUploadTunnel{
			PoolId: poolID, Image: &storagev1.Image{Meta: &metav1.ObjectMeta{Id: name}},
		}}})
		must(t, tun.data("01234"))
		finish(tun)
		if name == "aborted" {
			if end := tun.ended(t); end.GetCode() == 0 {
				t.Errorf("%s: %v", name, end)
			}
		}
	}
	l.stop()
	l.host.mu.Lock()
	defer l.host.mu.Unlock()
	if len(l.host.images) != 0 {
		t.Errorf("half an image was stored: %v", l.host.images)
	}
}

func TestConsoles(t *testing.T) {
	l := newLab(t)
	l.running()
	console := func(id string) *tunnelEnd {
		return l.ctrl.open(&agentv1.OpenTunnel{TunnelId: "c" + id, Purpose: &agentv1.OpenTunnel_Console{Console: &agentv1.ConsoleTunnel{VmId: id}}})
	}
	c := console(vmID)
	must(t, c.data("hello"))
	c.text(t, "echo hello")
	must(t, c.end(0))
	if end := c.ended(t); end.GetCode() != 0 {
		t.Errorf("end %v", end)
	}
	c.close()
	c = console(vmID) // the guest's side ends
	must(t, c.data("bye"))
	if end := c.ended(t); end.GetCode() != 0 {
		t.Errorf("end %v", end)
	}
	c.close()
	if end := console("unknown").ended(t); end.GetReason() != "DOMAIN_NOT_FOUND" {
		t.Errorf("end %v", end)
	}
	log := func(follow bool) *tunnelEnd {
		id := "log"
		if follow {
			id = "follow"
		}
		return l.ctrl.open(&agentv1.OpenTunnel{TunnelId: id, Purpose: &agentv1.OpenTunnel_ConsoleLog{ConsoleLog: &agentv1.ConsoleLogTunnel{VmId: vmID, Follow: follow}}})
	}
	e := log(false)
	e.text(t, "login: ")
	if end := e.ended(t); end.GetCode() != 0 {
		t.Errorf("end %v", end)
	}
	e = log(true)
	e.text(t, "login: ")
	must(t, e.end(0))
	if end := e.ended(t); end.GetCode() != 0 {
		t.Errorf("end %v", end)
	}
}

func TestNodeFactsAndMetrics(t *testing.T) {
	l := newLab(t)
	l.running()
	l.ctrl.wait("the node's resources", func() bool {
		s := l.ctrl.node.GetStatus()
		return s.GetResources().GetCpus() == 8 && len(s.GetDrivers()) == 2 && s.GetBootId() != "" && s.GetAgentVersion() == "1"
	})
	l.ctrl.mu.Lock()
	l.ctrl.node, l.ctrl.again = nil, true
	l.ctrl.mu.Unlock()
	l.ctrl.wait("another registration", func() bool { return l.ctrl.node != nil })

	l.d.metrics.CollectOnce(t.Context(), source{l.d})
	problems, err := testutil.GatherAndLint(l.d.metrics.Registry())
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for path, want := range map[string]string{"/metrics": `limiquantix_vm_cpu_seconds_total{project="default",vm="web",vm_id="` + vmID + `"} 5`, "/health": `"status":"ok"`} {
		if body := get(t, "http://"+l.d.Addr().String()+path); !strings.Contains(body, want) {
			t.Errorf("%s does not hold %s:\n%s", path, want, body)
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	r, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Get(url)
	must(t, err)
	defer r.Body.Close() //nolint:errcheck // only read
	var b strings.Builder
	buf := make([]byte, 1<<16)
	for {
		n, err := r.Body.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return b.String()
		}
	}
}

// A second controller that does not lead names the one that does.
func TestLeaderIsFollowed(t *testing.T) {
	l := newLab(t)
	l.stop()
	second := startController(t, l.ctrl.ca)
	second.notLead = l.ctrl.addr
	l.start(second.addr)
	l.ctrl.wait("a stream at the leader", func() bool { return len(l.ctrl.streams) == 1 })
	// The leader goes away: the other one takes over.
	second.mu.Lock()
	second.notLead = ""
	second.mu.Unlock()
	l.ctrl.srv.Stop()
	second.wait("a stream at the new leader", func() bool { return len(second.streams) == 1 && second.node != nil })
}

func TestReportsAreKeptUntilTaken(t *testing.T) {
	l := newLab(t)
	l.ctrl.mu.Lock()
	l.ctrl.deaf = true
	l.ctrl.mu.Unlock()
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	l.ctrl.set(vm(1))
	l.host.wait("the guest", func() bool { d := l.host.domains[vmID]; return d != nil && d.GetPid() != 0 })
	l.ctrl.mu.Lock()
	l.ctrl.deaf = false
	l.ctrl.mu.Unlock()
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
}

func TestEnrolment(t *testing.T) {
	c := startController(t, newCA(t))
	stranger := startController(t, newCA(t))
	good, err := enrol.ParseToken(c.token())
	must(t, err)
	dir := t.TempDir()
	if _, err := enrol.Load(dir); err != enrol.ErrNone { //nolint:errorlint // as it is
		t.Fatalf("load of nothing: %v", err)
	}
	// Somebody in between is found out before the token is sent.
	if _, err := enrol.Enrol(t.Context(), dir, stranger.addr, good); err == nil || !strings.Contains(err.Error(), "join token names") {
		t.Fatalf("a stranger was believed: %v", err)
	}
	if _, err := enrol.Load(dir); err != enrol.ErrNone { //nolint:errorlint // as it is
		t.Fatal("half an identity was left")
	}
	id, err := enrol.Enrol(t.Context(), dir, c.addr, good)
	must(t, err)
	again, err := enrol.Load(dir)
	must(t, err)
	if again.Facts != id.Facts || again.NodeID != testNode {
		t.Errorf("%+v", again.Facts)
	}
	for _, f := range []string{"node.key", "identity.json"} {
		if st, err := os.Stat(filepath.Join(dir, f)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, st.Mode(), err)
		}
	}
	if bad, err := enrol.ParseToken(strings.Replace(c.token(), "c2VjcmV0", "b3RoZXI", 1)); err != nil {
		t.Fatal(err)
	} else if _, err := enrol.Enrol(t.Context(), t.TempDir(), c.addr, bad); !fault.Is(err, metav1.Reason_REASON_JOIN_TOKEN_REFUSED) {
		t.Errorf("an unknown token: %v", err)
	}
	if strings.Contains(good.String(), "c2VjcmV0") {
		t.Error("a token prints its secret")
	}
}

func TestRenewal(t *testing.T) {
	l := &lab{t: t, ctrl: startController(t, newCA(t)), host: newHost(t), dir: t.TempDir()}
	l.ctrl.certLife = 2 * time.Second
	l.enrol()
	before, err := os.ReadFile(filepath.Join(l.dir, "node.crt"))
	must(t, err)
	l.start()
	l.ctrl.wait("a renewal", func() bool { return l.ctrl.renewals > 0 })
	l.ctrl.wait("the new certificate on disk", func() bool {
		now, err := os.ReadFile(filepath.Join(l.dir, "node.crt"))
		return err == nil && !bytes.Equal(now, before)
	})
	l.ctrl.wait("heartbeats with the new certificate", func() bool { return l.ctrl.beats > 3 && len(l.ctrl.streams) == 1 })
	l.stop()
	after, err := os.ReadFile(filepath.Join(l.dir, "node.crt"))
	must(t, err)
	if bytes.Equal(after, before) {
		t.Error("the new certificate was not kept")
	}
}

// The process ends promptly, whatever hangs.
func TestStopWhileDriverHangs(t *testing.T) {
	l := newLab(t)
	l.running()
	l.host.do(func() {
		l.host.hang["PauseDomain"] = true
		l.host.hang["ListDomains"] = true
		l.host.hang["GetStats"] = true
	})
	l.ctrl.set(vm(2, power(computev1.PowerState_POWER_STATE_PAUSED)))
	l.host.wait("the hanging call", func() bool { return l.host.calls["PauseDomain"] == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() { l.stop(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("the agent does not end")
	}
}

package reconcile

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Config is what an engine needs to know and to use.
type Config struct {
	ClusterID string
	NodeID    string
	Plugins   Plugins
	Reporter  Reporter
	Fetcher   Fetcher
	Observer  Observer
	Store     *realised.Store
	Logger    *slog.Logger
	Now       func() time.Time // time.Now when nil
	// Survey is how often all objects are listed and compared with what is known; 0 = 30 s.
	Survey time.Duration
	// PoolLook is how often pools are asked how they are, PoolAnswer how long they may take to say so; 0 = 10 s and 6 s.
	PoolLook, PoolAnswer time.Duration
	// NetworkLook is how often ports are looked at, NetworkStats how often their counters are read, NetworkCheck how often network drivers compare all with the
	// host; 0 = 5 s, 10 s and 5 min.
	NetworkLook, NetworkStats, NetworkCheck time.Duration
	// NetworkAnswer is how long a network driver may take for one call; 0 = 30 s.
	NetworkAnswer time.Duration
}

// Engine reconciles the node. All methods may be called at once and return without waiting for a driver.
type Engine struct {
	cluster, node string
	plugins       Plugins
	reporter      Reporter
	fetcher       Fetcher
	observer      Observer
	store         *realised.Store
	log           *slog.Logger
	now           func() time.Time
	survey        time.Duration
	poolEvery     time.Duration
	poolAnswer    time.Duration
	netLookEvery  time.Duration
	netStatsEvery time.Duration
	netCheckEvery time.Duration
	netAnswer     time.Duration

	queue    *queue
	limits   *limits
	lease    lease
	progress *progress
	wg       sync.WaitGroup
	stop     context.CancelFunc
	poke     chan string // plugins to survey

	mu      sync.Mutex
	wants   map[realised.Key]*want
	vms     map[string]*vmState
	volumes map[string]*volumeState
	pools   map[string]*poolState
	changed []*agentv1.DesiredObject // not yet saved
	removed []*agentv1.DesiredKey
	synced  bool // a controller told this run all that is wanted
	orphans orphans
	begun   time.Time
	fetched map[realised.Key]time.Time       // when the progress of a fetch was told last
	asking  map[string]bool                  // plugins whose guests are being asked
	held    map[string]map[realised.Key]bool // volumes that are being worked on: no VM starts on them; who waits for that

	hopeless     map[realised.Key]*want // snapshots' wishes that can never come true
	snapFailures map[realised.Key]int

	net      networking
	checking map[string]*driftsHeard // by driver and network: what is being put right, and was heard of since
}

// want is one desired object. It is replaced, never changed.
type want struct {
	obj       *agentv1.DesiredObject
	confirmed bool // told by a controller to this run
}

// NewEngine makes an engine that knows what the state file knows; Start lets it act.
func NewEngine(c Config) *Engine {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Survey <= 0 {
		c.Survey = 30 * time.Second
	}
	e := &Engine{
		cluster: c.ClusterID, node: c.NodeID, plugins: c.Plugins, fetcher: c.Fetcher, reporter: c.Reporter, observer: c.Observer, store: c.Store, log: c.Logger,
		now: c.Now, survey: c.Survey, poolEvery: cmp.Or(c.PoolLook, poolLook), poolAnswer: cmp.Or(c.PoolAnswer, poolAnswer), limits: newLimits(), poke: make(chan string, 64),
		wants: map[realised.Key]*want{}, vms: map[string]*vmState{}, volumes: map[string]*volumeState{}, pools: map[string]*poolState{},
		orphans: newOrphans(), begun: time.Now(), asking: map[string]bool{}, held: map[string]map[realised.Key]bool{},
		hopeless: map[realised.Key]*want{}, fetched: map[realised.Key]time.Time{}, snapFailures: map[realised.Key]int{},
		netLookEvery: cmp.Or(c.NetworkLook, netLook), netStatsEvery: cmp.Or(c.NetworkStats, netStats), netCheckEvery: cmp.Or(c.NetworkCheck, netCheck), netAnswer: cmp.Or(c.NetworkAnswer, netCall),
		net: newNetworking(), checking: map[string]*driftsHeard{},
	}
	e.queue = newQueue(e.work)
	e.progress = newProgress(e.node, e.now, func(k realised.Key, p *computev1.Progress) {
		e.reporter.Progress(&agentv1.ObjectProgress{Key: desiredKey(k), Progress: p})
	})
	for _, o := range c.Store.Desired() {
		e.wants[keyOf(o.GetKey())] = &want{obj: o}
	}
	return e
}

// Start begins to reconcile what is known.
func (e *Engine) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	e.stop = cancel
	e.wg.Go(func() { e.surveyLoop(ctx) })
	e.wg.Go(func() { e.progressLoop(ctx) })
	e.wg.Go(func() { e.networkLoop(ctx) })
	e.EnqueueAll()
}

// Close ends all workers, which leaves every guest as it is. It waits until no driver call is under way; their contexts are cancelled.
func (e *Engine) Close() {
	if e.stop != nil {
		e.stop()
	}
	e.queue.close()
	e.wg.Wait()
	e.save()
}

// Upsert takes a desired object. One with an older epoch than known is refused and reported.
func (e *Engine) Upsert(obj *agentv1.DesiredObject) {
	k := keyOf(obj.GetKey())
	if k.Kind == "" {
		e.log.Warn("desired object of an unknown kind is ignored", "kind", obj.GetKey().GetKind(), "id", obj.GetKey().GetId())
		return
	}
	e.mu.Lock()
	old := e.wants[k]
	known := epochOf(old.object())
	if r, ok := e.store.Record(k); ok {
		known = max(known, r.Epoch)
	}
	if epoch := epochOf(obj); epoch < known {
		e.mu.Unlock()
		msg := fmt.Sprintf("%s: epoch %d is older than %d, which is known here; refused", k, epoch, known)
		e.log.Warn("stale assignment refused", "object", k.String(), "epoch", epoch, "known", known)
		vm := ""
		if k.Kind == realised.KindVM {
			vm = k.ID
		}
		e.reporter.Event(vm, "AssignmentRefused", fault.ReasonName(metav1.Reason_REASON_STALE_EPOCH), msg)
		return
	}
	same := old != nil && old.confirmed && obj.GetVersion() != "" && old.obj.GetVersion() == obj.GetVersion()
	e.wants[k] = &want{obj: obj, confirmed: true}
	e.changed = append(e.changed, obj)
	e.mu.Unlock()
	if !same {
		if old == nil || !proto.Equal(old.obj, obj) {
			e.queue.interrupt(k)
		}
		e.forgive(k)
	}
	e.queue.add(k)
	if old != nil && !proto.Equal(limitsOf(old.obj.GetVolume().GetVolume()), limitsOf(obj.GetVolume().GetVolume())) {
		e.dependents(k) // its VM's definition has them
	}
}

// Remove says that an object is wanted no longer. What is left of it and was not confirmed absent is an orphan.
func (e *Engine) Remove(key *agentv1.DesiredKey) {
	k := keyOf(key)
	e.mu.Lock()
	delete(e.wants, k)
	e.removed = append(e.removed, key)
	e.orphans.left[k] = e.orphans.next()
	switch k.Kind {
	case realised.KindVM:
		delete(e.vms, k.ID)
	case realised.KindVolume:
		delete(e.volumes, k.ID)
	case realised.KindPool:
		if s := e.pools[k.ID]; s != nil {
			s.cancelCalls()
		}
		delete(e.pools, k.ID)
	case realised.KindSnapshot:
		delete(e.hopeless, k)
		delete(e.snapFailures, k)
	default:
		e.net.forget(k)
	}
	e.mu.Unlock()
	e.reporter.Forget(key)
	e.progress.settled(k)
	e.queue.interrupt(k)
	e.pokeSurvey("")
}

// Synced says that everything up to here was told.
func (e *Engine) Synced() {
	e.mu.Lock()
	survey := !e.synced || len(e.removed) > 0 // what is wanted no longer is an orphan now, if it is there
	e.synced = true
	e.mu.Unlock()
	e.save()
	if survey {
		e.pokeSurvey("")
	}
}

// save writes what is wanted to the state file.
func (e *Engine) save() {
	e.mu.Lock()
	changed, removed := e.changed, e.removed
	e.changed, e.removed = nil, nil
	kept := changed[:0]
	for _, o := range changed { // an object that was removed since, or replaced, is not saved
		if w := e.wants[keyOf(o.GetKey())]; w != nil && w.obj == o {
			kept = append(kept, o)
		}
	}
	gone := removed[:0]
	for _, k := range removed {
		if e.wants[keyOf(k)] == nil {
			gone = append(gone, k)
		}
	}
	e.mu.Unlock()
	if err := e.store.SaveDesired(kept, gone); err != nil {
		e.log.Error("what is wanted cannot be kept in the state file", "error", err)
	}
}

// Known lists the keys of all that is wanted, for a snapshot to be compared with.
func (e *Engine) Known() []*agentv1.DesiredKey {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*agentv1.DesiredKey
	for _, w := range e.wants {
		out = append(out, w.obj.GetKey())
	}
	return out
}

// EnqueueAll runs every worker.
func (e *Engine) EnqueueAll() {
	e.mu.Lock()
	keys := make([]realised.Key, 0, len(e.wants))
	for k := range e.wants {
		keys = append(keys, k)
	}
	e.mu.Unlock()
	for _, k := range keys {
		e.queue.add(k)
	}
}

// Depth is how many workers run now, and how many objects wait for their next try.
func (e *Engine) Depth() (running, waiting int) { return e.queue.depth() }

// work is one run of an object's worker.
func (e *Engine) work(ctx context.Context, k realised.Key) time.Duration {
	e.mu.Lock()
	w := e.wants[k]
	e.mu.Unlock()
	if w == nil {
		return never
	}
	begin := time.Now()
	var after time.Duration
	result := resultOK
	ctx = about(ctx, k)
	e.progress.begin(k)
	switch k.Kind {
	case realised.KindVM:
		after, result = e.reconcileVM(ctx, w)
	case realised.KindVolume:
		after, result = e.reconcileVolume(ctx, w)
	case realised.KindPool:
		after, result = e.reconcilePool(ctx, w)
	case realised.KindImage:
		after, result = e.reconcileImage(ctx, w)
	case realised.KindSnapshot:
		after, result = e.reconcileSnapshot(ctx, w)
	case realised.KindNetwork:
		after, result = e.reconcileNetwork(ctx, w)
	case realised.KindPort:
		after, result = e.reconcilePort(ctx, w)
	case realised.KindRuleSet:
		after, result = e.reconcileRuleSet(ctx, w)
	case realised.KindAddressSet:
		after, result = e.reconcileAddressSet(ctx, w)
	}
	if result == resultOK {
		e.progress.settled(k)
	}
	e.observer.Reconciled(k.Kind, result, time.Since(begin))
	return after
}

// Results of a worker's run, for metrics.
const (
	resultOK     = "ok"
	resultWait   = "wait"
	resultFailed = "failed"
)

// current reports whether w is still what is wanted.
func (e *Engine) current(w *want) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wants[keyOf(w.obj.GetKey())] == w
}

// forgive lets an object that had failed be tried at once.
func (e *Engine) forgive(k realised.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch k.Kind {
	case realised.KindVM:
		if s := e.vms[k.ID]; s != nil {
			s.failures, s.permanent = 0, nil
		}
	case realised.KindVolume:
		if s := e.volumes[k.ID]; s != nil {
			s.failures, s.permanent = 0, nil
		}
	case realised.KindPool:
		if s := e.pools[k.ID]; s != nil {
			s.failures, s.ensured = 0, 0
		}
	case realised.KindSnapshot:
		delete(e.hopeless, k)
		delete(e.snapFailures, k)
	default:
		e.net.forgive(k)
	}
}

// dependents runs the workers of all that needs the object.
func (e *Engine) dependents(k realised.Key) {
	e.mu.Lock()
	var keys []realised.Key
	for dk, w := range e.wants {
		if dk != k && dependsOn(w.obj, k) {
			keys = append(keys, dk)
		}
	}
	e.mu.Unlock()
	for _, dk := range keys {
		e.queue.add(dk)
	}
}

// dependsOn reports whether an object waits for, or is waited for by, another.
func dependsOn(o *agentv1.DesiredObject, k realised.Key) bool {
	switch k.Kind {
	case realised.KindVolume:
		for _, v := range o.GetVm().GetVolumes() {
			if v.GetVolumeId() == k.ID {
				return true
			}
		}
		return o.GetVolumeSnapshot().GetSnapshot().GetSpec().GetVolumeId() == k.ID || o.GetVolume().GetVolume().GetSpec().GetSource().GetVolumeId() == k.ID
	case realised.KindSnapshot:
		return o.GetVolume().GetVolume().GetSpec().GetSource().GetSnapshotId() == k.ID || o.GetVolume().GetRestore().GetSnapshotId() == k.ID
	case realised.KindPool:
		if snap := o.GetVolumeSnapshot(); snap != nil {
			return snap.GetSnapshot().GetStatus().GetPoolId() == k.ID
		}
		return o.GetVolume().GetVolume().GetSpec().GetPoolId() == k.ID && o.GetVolume() != nil || o.GetImage().GetPoolId() == k.ID && o.GetImage() != nil
	case realised.KindImage: // k.ID is the image's own id here
		if v := o.GetVolume(); v != nil {
			return v.GetVolume().GetSpec().GetSource().GetImageId() == k.ID
		}
		if vm := o.GetVm(); vm != nil {
			kb := vm.GetSpec().GetBoot().GetKernel()
			return kb.GetKernelImage() == k.ID || kb.GetInitrdImage() == k.ID
		}
	}
	return networkDependsOn(o, k)
}

// ImageStored says that a copy of an image is complete: what waits for it goes on.
func (e *Engine) ImageStored(imageID string) {
	e.mu.Lock()
	var keys []realised.Key
	for k, w := range e.wants {
		if img := w.obj.GetImage(); img != nil && img.GetImage().GetMeta().GetId() == imageID {
			keys = append(keys, k)
		}
	}
	e.mu.Unlock()
	for _, k := range keys {
		e.queue.add(k)
	}
	e.dependents(realised.Key{Kind: realised.KindImage, ID: imageID})
}

func (w *want) object() *agentv1.DesiredObject {
	if w == nil {
		return nil
	}
	return w.obj
}

func keyOf(k *agentv1.DesiredKey) realised.Key {
	switch k.GetKind() {
	case agentv1.DesiredKind_DESIRED_KIND_VM:
		return realised.Key{Kind: realised.KindVM, ID: k.GetId()}
	case agentv1.DesiredKind_DESIRED_KIND_VOLUME:
		return realised.Key{Kind: realised.KindVolume, ID: k.GetId()}
	case agentv1.DesiredKind_DESIRED_KIND_POOL:
		return realised.Key{Kind: realised.KindPool, ID: k.GetId()}
	case agentv1.DesiredKind_DESIRED_KIND_IMAGE:
		return realised.Key{Kind: realised.KindImage, ID: k.GetId()}
	case agentv1.DesiredKind_DESIRED_KIND_VOLUME_SNAPSHOT:
		return realised.Key{Kind: realised.KindSnapshot, ID: k.GetId()}
	case agentv1.DesiredKind_DESIRED_KIND_NETWORK:
		return networkKey(k.GetId())
	case agentv1.DesiredKind_DESIRED_KIND_PORT:
		return portKey(k.GetId())
	case agentv1.DesiredKind_DESIRED_KIND_RULE_SET:
		return ruleKey(k.GetId())
	case agentv1.DesiredKind_DESIRED_KIND_ADDRESS_SET:
		return setKey(k.GetId())
	}
	return realised.Key{}
}

func epochOf(o *agentv1.DesiredObject) int64 {
	switch {
	case o.GetVm() != nil:
		return o.GetVm().GetEpoch()
	case o.GetVolume() != nil:
		return o.GetVolume().GetEpoch()
	case o.GetImage() != nil:
		return o.GetImage().GetEpoch()
	case o.GetVolumeSnapshot() != nil:
		return o.GetVolumeSnapshot().GetEpoch()
	case o.GetPort() != nil:
		return o.GetPort().GetEpoch()
	}
	return 0
}

func (e *Engine) mark(id string, generation, epoch int64) *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: e.cluster, NodeId: e.node, ObjectId: id, Generation: generation, Epoch: epoch}
}

// pluginFor returns a plugin that runs, or why none does.
func (e *Engine) pluginFor(name string) (Plugin, error) {
	p, ok := e.plugins.Plugin(name)
	switch {
	case !ok:
		return p, fault.New(metav1.Reason_REASON_PLUGIN_MISSING, "plugin %s is not installed on this node", name)
	case p.Running:
		return p, nil
	}
	msg := p.Message
	if msg == "" {
		msg = "it is being started"
	}
	if wait := time.Until(p.RetryTime); !p.RetryTime.IsZero() && wait > 0 {
		msg += "; it is started again in " + people(wait)
	}
	reason := metav1.Reason_REASON_PLUGIN_UNAVAILABLE
	if v, ok := metav1.Reason_value["REASON_"+p.Reason]; ok && v != 0 {
		reason = metav1.Reason(v)
	}
	return p, fault.New(reason, "plugin %s is not running: %s", name, msg).WithMetadata("plugin", name)
}

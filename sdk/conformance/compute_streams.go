package conformance

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

func seconds(n int64) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

func cleanupContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTimeout)
}

func eventsArrive(t T, e *Env) {
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	s, err := e.plugin().WatchEvents(ctx, &driverv1.WatchEventsRequest{})
	must(t, "WatchEvents", err)
	got := make(chan *driverv1.WatchEventsResponse)
	go func() {
		defer close(got)
		for {
			r, err := s.Recv()
			if err != nil {
				return
			}
			select {
			case got <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	// "From now on" begins when the stream is there, which nothing tells: start and stop until the first event comes.
	d := e.defined(t)
	var first *driverv1.WatchEventsResponse
	for deadline := time.Now().Add(15 * time.Second); first == nil; {
		call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id})
		call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: d.id, Force: true})
		first = nextOf(ctx, got, d.id, time.Second)
		if first == nil && time.Now().After(deadline) {
			t.Fatalf("no event of starting and stopping")
		}
	}
	if first.GetCursor() == "" || first.GetEventTime() == nil {
		t.Errorf("an event without cursor or time: %v", first)
	}
	call(t, e.compute().DeleteDomain, &driverv1.DeleteDomainRequest{DomainId: d.id})
	for {
		ev := nextOf(ctx, got, d.id, 20*time.Second)
		if ev == nil {
			t.Fatalf("no event of the deletion")
		}
		if ev.GetDomain().GetType() == driverv1.DomainEventType_DOMAIN_EVENT_TYPE_UNDEFINED {
			break
		}
	}
	again, err := e.plugin().WatchEvents(ctx, &driverv1.WatchEventsRequest{Cursor: first.GetCursor()})
	must(t, "WatchEvents from a cursor", err)
	r, err := again.Recv()
	must(t, "replay", err)
	if r.GetCursor() == first.GetCursor() {
		t.Errorf("the event of the cursor itself is replayed")
	}
}

// nextOf is the next event of a domain, or nil.
func nextOf(ctx context.Context, got <-chan *driverv1.WatchEventsResponse, id string, d time.Duration) *driverv1.WatchEventsResponse {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case r, ok := <-got:
			if !ok {
				return nil
			}
			if r.GetDomain().GetDomainId() == id {
				return r
			}
		case <-t.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// capabilitiesHonest calls each optional part for a domain that is absent: advertised, it says so; not advertised, UNIMPLEMENTED.
func capabilitiesHonest(t T, e *Env) {
	id, c, ctx := newID(), e.compute(), within(t)
	errOf := func(_ any, err error) error { return err }
	for f, err := range map[driverv1.ComputeFeature]error{
		driverv1.ComputeFeature_COMPUTE_FEATURE_PAUSE:       errOf(c.PauseDomain(ctx, &driverv1.PauseDomainRequest{DomainId: id})),
		driverv1.ComputeFeature_COMPUTE_FEATURE_REBOOT:      errOf(c.RebootDomain(ctx, &driverv1.RebootDomainRequest{DomainId: id})),
		driverv1.ComputeFeature_COMPUTE_FEATURE_DISK_RESIZE: errOf(c.ResizeDisk(ctx, &driverv1.ResizeDiskRequest{DomainId: id, DiskId: newID(), SizeBytes: 1 << 20})),
		driverv1.ComputeFeature_COMPUTE_FEATURE_SNAPSHOT_SWITCH: errOf(c.SwitchDisk(ctx, &driverv1.SwitchDiskRequest{DomainId: id, DiskId: newID(), Source: &driverv1.DiskSource{
			Source: &driverv1.DiskSource_File{File: &driverv1.FileSource{Path: "/nonexistent/overlay", Format: driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2}},
		}})),
		driverv1.ComputeFeature_COMPUTE_FEATURE_LINK_STATE:  errOf(c.SetLink(ctx, &driverv1.SetLinkRequest{DomainId: id, InterfaceId: newID()})),
		driverv1.ComputeFeature_COMPUTE_FEATURE_GUEST_AGENT: errOf(c.GetGuestInfo(ctx, &driverv1.GetGuestInfoRequest{DomainId: id})),
	} {
		advertised := slices.Contains(e.caps().GetCompute().GetFeatures(), f)
		if got := code(err); (got == codes.Unimplemented) == advertised {
			t.Errorf("%s: advertised %v, answered %s", f, advertised, got)
		}
	}
	if len(e.caps().GetCompute().GetDiskSources()) == 0 {
		t.Errorf("no kind of disk source is advertised")
	}
}

func consoleOpens(t T, e *Env) {
	d := e.started(t)
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	open := func(id string) (driverv1.ComputeDriverService_OpenConsoleClient, *driverv1.OpenConsoleResponse, error) {
		s, err := e.compute().OpenConsole(ctx)
		must(t, "OpenConsole", err)
		must(t, "naming the domain", s.Send(&driverv1.OpenConsoleRequest{Message: &driverv1.OpenConsoleRequest_Open{Open: &driverv1.ConsoleTarget{DomainId: id}}}))
		r, err := s.Recv()
		return s, r, err
	}
	_, _, err := open(newID())
	wantCode(t, "the console of what is absent", err, codes.NotFound)
	for range 2 { // several may be open
		s, r, err := open(d.id)
		must(t, "the first message", err)
		if len(r.GetData()) > 0 {
			t.Errorf("the first message has data: %q", r.GetData())
		}
		must(t, "typing", s.Send(&driverv1.OpenConsoleRequest{Message: &driverv1.OpenConsoleRequest_Data{Data: []byte("\n")}}))
	}
	idle := e.defined(t)
	_, _, err = open(idle.id)
	wantCode(t, "the console of what does not run", err, codes.FailedPrecondition)
}

func consoleLogReads(t T, e *Env) {
	d := e.started(t)
	read := func(offset int64) (at int64, text []byte) {
		s, err := e.compute().ReadConsoleLog(within(t), &driverv1.ReadConsoleLogRequest{DomainId: d.id, Offset: offset})
		must(t, "ReadConsoleLog", err)
		at = -1
		for {
			r, err := s.Recv()
			if err != nil {
				if err.Error() != "EOF" {
					t.Fatalf("reading: %v", err)
				}
				return at, text
			}
			if at < 0 {
				at = r.GetOffset()
			}
			text = append(text, r.GetData()...)
		}
	}
	if !e.o.Compute.GuestSpeaks {
		read(0) // must end without error
		return
	}
	var all []byte
	eventually(t, callTimeout, "the guest has said something", func() bool {
		_, all = read(0)
		return len(all) > 4
	})
	at, rest := read(3)
	if at != 3 || len(rest) < len(all)-3 || string(rest[:len(all)-3]) != string(all[3:]) {
		t.Errorf("from offset 3 it reads from %d: %.40q, all is %.40q", at, rest, all)
	}
	if at, tail := read(-2); len(tail) < 2 || at < int64(len(all))-2 {
		t.Errorf("the last two bytes: %q at %d of %d", tail, at, len(all))
	}
}

package failpoint_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func actNode(ctx context.Context, r *rig) error {
	_, err := call(ctx, r, r.nodes.CordonNode, &computev1.CordonNodeRequest{Id: nodeName, RequestId: r.name("cordon")})
	if err != nil {
		return err
	}
	got, err := call(ctx, r, r.nodes.GetNode, &computev1.GetNodeRequest{Id: nodeName})
	if err != nil || !got.GetNode().GetSpec().GetCordoned() {
		return errors.Join(err, fmt.Errorf("cordon was acknowledged and is not so: %v", got))
	}
	if _, err := call(ctx, r, r.nodes.UncordonNode, &computev1.UncordonNodeRequest{Id: nodeName, RequestId: r.name("uncordon")}); err != nil {
		return err
	}
	node := got.GetNode()
	label := r.name("label")
	node.Meta.Labels, node.Meta.Etag = map[string]string{"test": label}, ""
	_, err = call(ctx, r, r.nodes.UpdateNode, &computev1.UpdateNodeRequest{Node: node, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"meta.labels"}}, RequestId: label})
	if err != nil {
		return err
	}
	if got, err = call(ctx, r, r.nodes.GetNode, &computev1.GetNodeRequest{Id: nodeName}); err != nil || got.GetNode().GetMeta().GetLabels()["test"] != label {
		return errors.Join(err, fmt.Errorf("a label was acknowledged and is not so: %v", got))
	}
	other := r.name("registered")
	_, err = call(ctx, r, r.nodes.RegisterNode, &computev1.RegisterNodeRequest{Node: &computev1.Node{Meta: meta(other)}, RequestId: other})
	if err != nil {
		return err
	}
	if _, err = call(ctx, r, r.nodes.DeleteNode, &computev1.DeleteNodeRequest{Id: other, RequestId: r.name("delete")}); err != nil && !isNotFound(err) {
		return err
	}
	return r.until(ctx, "node "+other+" is gone", func() (bool, string) {
		m, err := r.nodes.GetNode(ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: other}))
		return isNotFound(err), fmt.Sprint(m, err)
	})
}

func actAgentRestart(ctx context.Context, r *rig) error {
	return r.whileAgentIsDown(ctx, syscall.SIGTERM, func() error { return nil })
}

func actAgentKilled(ctx context.Context, r *rig) error {
	return r.whileAgentIsDown(ctx, syscall.SIGKILL, func() error { return nil })
}

func (r *rig) whileAgentIsDown(ctx context.Context, s syscall.Signal, do func() error) error {
	if err := r.agent.stop(s); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := r.agent.start(); err != nil {
		return err
	}
	return r.nodeReady(ctx)
}

func actDamaged(ctx context.Context, r *rig) error {
	return r.whileAgentIsDown(ctx, syscall.SIGKILL, func() error {
		return os.WriteFile(filepath.Join(r.dir, "agent", "realised.db"), []byte("this is no database, and it is long enough to be looked at"), 0o600)
	})
}

func actEmptied(ctx context.Context, r *rig) error {
	return r.whileAgentIsDown(ctx, syscall.SIGKILL, func() error {
		return os.Truncate(filepath.Join(r.dir, "agent", "realised.db"), 0)
	})
}

// actSilence lets the node fall silent until it counts as unknown.
func actSilence(ctx context.Context, r *rig) error {
	return r.whileAgentIsDown(ctx, syscall.SIGKILL, func() error {
		return r.until(ctx, "the node is unknown", func() (bool, string) {
			m, err := r.nodes.GetNode(ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: nodeName}))
			return err == nil && m.Msg.GetNode().GetStatus().GetPhase() == computev1.NodePhase_NODE_PHASE_UNKNOWN, fmt.Sprint(m, err)
		})
	})
}

// actToken makes a token and revokes it, and one that expires by itself.
func actToken(ctx context.Context, r *rig) error {
	made, err := call(ctx, r, r.nodes.CreateJoinToken, &computev1.CreateJoinTokenRequest{NodeName: r.name("node")})
	if err != nil {
		return err
	}
	if _, err := call(ctx, r, r.nodes.DeleteJoinToken, &computev1.DeleteJoinTokenRequest{Id: made.GetJoinToken().GetId()}); err != nil {
		return err
	}
	short := r.name("node")
	if _, err := r.joinToken(ctx, short, time.Second); err != nil {
		return err
	}
	return r.until(ctx, "the token expires", func() (bool, string) {
		m, err := r.nodes.ListJoinTokens(ctx, connect.NewRequest(&computev1.ListJoinTokensRequest{}))
		if err != nil {
			return false, err.Error()
		}
		for _, t := range m.Msg.GetJoinTokens() {
			if t.GetNodeName() == short {
				return false, m.Msg.String()
			}
		}
		return pauseQuietly(ctx, 3*time.Second), ""
	})
}

func pauseQuietly(ctx context.Context, d time.Duration) bool { return pause(ctx, d) == nil }

// actFirst starts everything for the first time and makes a VM.
func actFirst(ctx context.Context, r *rig) error {
	if err := r.up(ctx); err != nil {
		return err
	}
	id, err := r.create(ctx, machine("first"))
	if err != nil {
		return err
	}
	return r.remove(ctx, id)
}

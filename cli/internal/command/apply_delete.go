package command

import (
	"context"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/manifest"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func (s *session) deleteCommand() *cobra.Command {
	var files []string
	var noWait bool
	cmd := &cobra.Command{
		Use:   "delete -f FILE",
		Short: "Delete the VMs, networks, ports and security groups that documents describe",
		Long: "Deletes what documents name, as lqctl apply takes them: VMs first, then ports, networks and groups, each kind once the one before is gone.\n" +
			"What is gone already is no failure. With --no-wait what is still in use is refused.",
		Example: "  lqctl delete -f web.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return failure.Usage("%q is one argument too many", args[0]).WithFix("lqctl delete takes documents with -f; by name: lqctl vm delete NAME, lqctl image delete NAME")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := s.readManifests(files)
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			backwards := slices.Clone(manifest.Kinds)
			slices.Reverse(backwards)
			sortDocuments(docs, backwards)
			w := &removal{s: s, c: c, project: project, noWait: noWait}
			for len(docs) > 0 && len(w.errs) == 0 {
				n := slices.IndexFunc(docs, func(d manifest.Document) bool { return d.Kind != docs[0].Kind })
				if n < 0 {
					n = len(docs)
				}
				w.remove(cmd.Context(), docs[:n])
				docs = docs[n:]
			}
			if noWait {
				return s.join(append(nonNil(s.printOperations(w.items, true)), w.errs...))
			}
			return s.join(append(nonNil(s.printObjects(w.objects, true)), w.errs...))
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "file with documents; - = standard input; repeatable")
	addNoWait(cmd, &noWait)
	return cmd
}

// removal deletes what documents name.
type removal struct {
	s       *session
	c       *api.Client
	project string
	noWait  bool
	items   []accepted // not waited for
	objects []proto.Message
	errs    []error
}

// remove deletes what documents of one kind name. What is refused as something else of them still refers to it is tried again after that.
func (w *removal) remove(ctx context.Context, docs []manifest.Document) {
	verbs := verbsOf[docs[0].Kind]
	for left := docs; len(left) > 0; {
		var items []accepted
		var refused []error
		var again []manifest.Document
		for _, d := range left {
			name, project := placed(d.Object, w.project)
			it := accepted{name: name, kind: verbs.word, done: "deleted"}
			op, object, err := verbs.remove(ctx, w.c, name, project)
			switch {
			case failure.IsCode(err, codes.NotFound) || err == nil && object == nil:
				it.object, it.done = d.Object, "is gone already"
			case failure.IsReason(err, metav1.Reason_REASON_WRONG_STATE):
				again, refused = append(again, d), append(refused, err)
				continue
			case err != nil:
				w.errs = append(w.errs, err)
				continue
			default:
				it.op, it.object = op, object
			}
			items = append(items, it)
		}
		if w.noWait {
			w.items = append(w.items, items...)
		} else {
			objects, errs := w.s.await(ctx, w.c, items)
			w.objects, w.errs = append(w.objects, objects...), append(w.errs, errs...)
		}
		if len(items) == 0 || len(w.errs) > 0 {
			w.errs = append(w.errs, refused...)
			return
		}
		left = again
	}
}

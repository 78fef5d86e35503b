// SPDX-License-Identifier: Apache-2.0
// What examples/csharp/RtfmRt.cs does, as lines for tests/test_csharp.py.
//
//   walking MODEL PICTURE WORLD
using System;
using System.IO;
using System.Text;
using System.Threading;
using RtfmRt;

static class Walking {
  static byte[] frame;

  static void Show(Receipt receipt) {
    Console.WriteLine("frame {0} {1} {2} {3} {4} {5:R} {6}", receipt.Id, receipt.Steps,
                      receipt.Late, receipt.Committed, receipt.ContextCount, receipt.Support,
                      BitConverter.ToString(frame).Replace("-", "").ToLower());
  }

  static void Refused(Action call) {
    try {
      call();
      Console.WriteLine("refused nothing");
    } catch (RtfmException problem) {
      Console.WriteLine("refused {0}: {1}", problem.Status, problem.Message);
    } catch (ObjectDisposedException) {
      Console.WriteLine("refused Disposed");
    }
  }

  static double[] Ahead(double metres) {
    double[] pose = new double[16];
    Poses.FromQuaternion(new double[] { 0, 0, metres }, new double[] { 0, 0, 0, 1 },
                         Poses.Convention.Unity, pose);
    return pose;
  }

  static void Main(string[] arguments) {
    Console.OutputEncoding = new UTF8Encoding(false);
    var model = new Model(arguments[0], "cpu");
    Console.WriteLine("model {0} {1} {2} {3} {4}", model.Images, model.Height, model.Width,
                      model.Device, model.Precision);
    byte[] picture = File.ReadAllBytes(arguments[1]);
    frame = new byte[model.FrameBytes];
    Options options = Options.Default;
    options.Seed = 7;
    options.Threads = 1;
    var session = new Session(model, options);
    Refused(() => session.Step(Ahead(0), frame));
    session.Observe(picture, Poses.Identity);
    for (int i = 0; i < 3; ++i) Show(session.Step(Ahead(0.1 * i), frame));

    Show(session.Imagine(Ahead(0.5), frame));
    using (Session branch = session.Fork()) Show(branch.Step(Ahead(0.5), frame));
    var slot = new PoseSlot(Ahead(0));
    var tracker = new Thread(() => slot.Write(Ahead(0.3)));
    tracker.Start();
    tracker.Join();
    Show(session.Step(slot, frame));
    session.Save(arguments[2]);
    Show(session.Imagine(Ahead(0), frame));
    using (Session loaded = Session.Load(arguments[2], model))
        Show(loaded.Imagine(Ahead(0), frame));

    double[] pose = Ahead(0.1);
    session.Imagine(pose, frame);
    slot.Write(pose);
    long before = GC.GetAllocatedBytesForCurrentThread();
    for (int i = 0; i < 10; ++i) session.Step(pose, frame);
    slot.Write(pose);
    session.Step(slot, frame);
    long collected = GC.GetAllocatedBytesForCurrentThread() - before;

    Refused(() => new Model(arguments[1]));
    Refused(() => new Model(arguments[0], "räume"));
    Refused(() => session.Step(new double[16], frame));
    Refused(() => session.Step(new double[9], frame));
    Refused(() => session.Step(pose, new byte[7]));
    Refused(() => session.Step((double[])null, frame));
    Refused(() => session.Observe(picture, null));
    Refused(() => session.Save(arguments[2] + "/none"));
    Refused(() => Session.Load(arguments[1], model));
    Refused(() => new Session(model, new Options { Threads = 1000 }));
    Show(session.Imagine(pose, frame));
    model.Dispose();
    Show(session.Imagine(pose, frame));  // sessions hold on to their model
    Refused(() => new Session(model));
    session.Dispose();
    session.Dispose();
    Refused(() => session.Step(pose, frame));
    slot.Dispose();
    Refused(() => slot.Write(pose));
    Console.WriteLine("collected {0}", collected);
  }
}

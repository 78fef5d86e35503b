// SPDX-License-Identifier: Apache-2.0
// Walks 30 steps into the room of a picture and back, with poses as Unity has them.
//
//   Walk MODEL PICTURE.ppm [OUT]
using System;
using System.IO;
using System.Text;
using RtfmRt;

static class Walk {
  const int Ahead = 30;

  // The [Height, Width, 3] bytes of a binary PPM with that size, behind its header.
  static byte[] ReadPpm(string path, Model model) {
    byte[] file = File.ReadAllBytes(path);
    string header = "P6\n" + model.Width + " " + model.Height + "\n255\n";
    int size = model.ImageBytes;
    if (file.Length != header.Length + size ||
        Encoding.ASCII.GetString(file, 0, header.Length) != header)
      throw new InvalidDataException(path + ": expected a PPM (P6) of " + model.Width + "x" +
                                     model.Height + " pixels");
    byte[] image = new byte[size];
    Array.Copy(file, header.Length, image, 0, size);
    return image;
  }

  static void WritePpm(string path, Model model, byte[] frame) {
    using (var file = File.Create(path)) {
      byte[] header =
          Encoding.ASCII.GetBytes("P6\n" + model.Width + " " + model.Height + "\n255\n");
      file.Write(header, 0, header.Length);
      file.Write(frame, 0, model.ImageBytes);
    }
  }

  static void Go(string path, string picture, string output) {
    using (var model = new Model(path)) {
      Options options = Options.Default;
      options.Seed = 7;
      using (var session = new Session(model, options)) {
        session.Observe(ReadPpm(picture, model), Poses.Identity);
        double[] position = new double[3], rotation = { 0, 0, 0, 1 }, pose = new double[16];
        byte[] frame = new byte[model.FrameBytes];
        for (int i = 1; i <= 2 * Ahead; ++i) {
          position[2] = 0.02 * (i <= Ahead ? i : 2 * Ahead - i);  // forward is z, in metres
          Poses.FromQuaternion(position, rotation, Poses.Convention.Unity, pose);
          Receipt receipt = session.Step(pose, frame);
          if (i % 10 == 0)
            Console.WriteLine("frame {0}: {1:F1} ms, {2} steps, support {3:F2}", i,
                              receipt.Latency * 1e3, receipt.Steps, receipt.Support);
          if (i == Ahead)
            WritePpm(output + "turn.ppm", model, frame);
        }
        WritePpm(output + "return.ppm", model, frame);
      }
    }
  }

  static int Main(string[] arguments) {
    if (arguments.Length < 2) {
      Console.Error.WriteLine("Walk: expected MODEL PICTURE.ppm [OUT]");
      return 2;
    }
    try {
      Go(arguments[0], arguments[1], arguments.Length > 2 ? arguments[2] : "");
      return 0;
    } catch (Exception problem) {
      Console.Error.WriteLine("Walk: " + problem.Message);
      return 1;
    }
  }
}

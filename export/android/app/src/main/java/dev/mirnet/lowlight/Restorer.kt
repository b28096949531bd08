package dev.mirnet.lowlight

import android.content.Context
import android.graphics.Bitmap
import java.io.Closeable
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import org.tensorflow.lite.Interpreter

/** A LiteRT model of `mirnet export --format litert`: one (1, H, W, 3) uint8 RGB frame in and out. */
class Restorer(context: Context, asset: String, threads: Int = 4) : Closeable {
    private val interpreter = Interpreter(mapped(context, asset), Interpreter.Options().apply {
        setNumThreads(threads) // XNNPACK is on by default
    })
    private val shape = interpreter.getInputTensor(0).shape()
    private val enlarged = interpreter.getOutputTensor(0).shape()
    val height = shape[1]
    val width = shape[2]
    private val input = buffer(shape)
    private val output = buffer(enlarged)
    private val pixels = IntArray(enlarged[1] * enlarged[2])

    /** Return the restored frame.
     *
     * @param rgba Rows of RGBA bytes, as CameraX gives them.
     * @param stride Bytes from one row to the next.
     */
    fun restore(rgba: ByteBuffer, stride: Int): Bitmap {
        input.rewind()
        for (row in 0 until height) {
            var place = row * stride
            for (column in 0 until width) {
                input.put(rgba.get(place)).put(rgba.get(place + 1)).put(rgba.get(place + 2))
                place += 4
            }
        }
        input.rewind()
        output.rewind()
        interpreter.run(input, output)
        output.rewind()
        for (index in pixels.indices) {
            val red = output.get().toInt() and 0xff
            val green = output.get().toInt() and 0xff
            val blue = output.get().toInt() and 0xff
            pixels[index] = (0xff shl 24) or (red shl 16) or (green shl 8) or blue
        }
        return Bitmap.createBitmap(pixels, enlarged[2], enlarged[1], Bitmap.Config.ARGB_8888)
    }

    override fun close() = interpreter.close()

    private fun buffer(shape: IntArray): ByteBuffer =
        ByteBuffer.allocateDirect(shape.reduce(Int::times)).order(ByteOrder.nativeOrder())

    private fun mapped(context: Context, asset: String): ByteBuffer =
        context.assets.openFd(asset).use { file ->
            FileInputStream(file.fileDescriptor).channel.map(
                FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength
            )
        }
}
